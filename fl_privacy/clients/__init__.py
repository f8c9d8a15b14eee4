"""Flower client side: the speech emotion recognition ClientApp and the mods that any ClientApp can take."""
