"""The one trainer and where its batches come from."""
