"""Above the runs: the Scout looks at models, the configurator writes configurations, others onboard and repair."""
