"""Programs that measure agcxr beside what people use today and beside the machine's limit; see README.md."""
