"""A run is a function here that returns a complete, frozen configuration; calling the configuration runs it."""

from blockvid.recipes.storybook import storybook_autoencoder, storybook_base

RECIPES = {recipe.__name__: recipe for recipe in (storybook_autoencoder, storybook_base)}
