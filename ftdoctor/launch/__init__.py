"""Starting a training run under ftdoctor's eyes."""
