"""Clinical exams: DICOM and unregistered scans to a dataset, and results back to the scanner's space."""
