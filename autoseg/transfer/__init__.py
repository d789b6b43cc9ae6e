"""Weights from elsewhere: source models, surgery, pretrained encoders, teachers."""
