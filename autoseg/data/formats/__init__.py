"""File formats of images, one module for each or for several similar ones."""
