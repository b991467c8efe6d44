"""What this machine has: packages, devices, disks, and the doctor that says so."""
