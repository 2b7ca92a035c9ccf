"""How traffic is divided and who may change it: the route's record, the two routers, transitions, the Lease."""
