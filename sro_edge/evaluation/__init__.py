"""How good rewrites are: STA, SIM, FL and J, under judges that training never saw."""
