"""From a folder of photographs and masks to a recipe: what can be read off the data is not asked."""
