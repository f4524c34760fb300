"""Pure functions of tensors: advantages and losses, one algorithm in one small place, no trainer in sight."""
