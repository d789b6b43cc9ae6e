"""Making a plan: the request, the way to planners, memory of a step and its verification."""
