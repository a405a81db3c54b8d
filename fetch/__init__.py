"""Stage: a checkpoint comes in from a hub, a mirror, ModelScope or a folder, pinned and verified; LoRAs are merged."""
