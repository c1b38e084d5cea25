"""How noise becomes video: denoisers, plans, solvers and the one loop that runs them."""
