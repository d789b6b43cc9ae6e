"""plan.json, the contract: what to do with a dataset."""
