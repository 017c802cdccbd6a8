"""Where events come from: files now; followed files, child processes and GPUs later."""
