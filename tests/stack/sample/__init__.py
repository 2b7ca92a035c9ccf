"""The service that the stack deploys: a payment service, its history in git, and what a team had running before us."""
