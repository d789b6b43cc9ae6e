"""File formats of images, a module each or several alike together."""
