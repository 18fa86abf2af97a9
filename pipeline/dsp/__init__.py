"""Signal processing on arrays that several rooms use: transforms, filters, medians, meters."""
