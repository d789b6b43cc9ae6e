"""Layouts of datasets on disk, one module for each; it recognises and reads the layout."""
