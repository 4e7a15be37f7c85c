"""Publishing through ``huggingface_hub``, to the real Hub or to the embedded one."""
