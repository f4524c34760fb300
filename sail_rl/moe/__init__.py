"""Distribution-aware tuning of an MoE: which experts each data source activates, and the best mixture."""
