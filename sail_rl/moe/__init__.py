"""Distribution-aware tuning of an MoE: probes the experts that each source activates, and calibrates the mixture."""
