"""Back ends: Domain 0's halves of the guests' devices. A back end reaches a guest by grants, foreign mappings and event channels only."""
