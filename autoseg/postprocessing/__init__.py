"""Clean-up of label maps: the steps, and choosing them by the cross-validated Dice."""
