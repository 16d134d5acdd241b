//! Making Proxmox VE call Stillpoint, and no longer.
