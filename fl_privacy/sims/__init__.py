"""Recipes: whole simulations, the engines that run them, and sweeps over them."""
