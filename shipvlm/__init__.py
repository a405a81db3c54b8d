"""Take a vision-language checkpoint to production artifacts with written evidence."""
