//! What lies on the backup servers.
