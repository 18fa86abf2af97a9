"""Where somebody speaks: backends that give probabilities, one way from those to regions, and the choice among them."""
