"""From the configuration to the judged model, stage by stage."""
