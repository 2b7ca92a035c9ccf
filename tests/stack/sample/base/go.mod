module payments

go 1.26
