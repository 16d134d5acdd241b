//! What stands in the way of good backups on this node, and how to mend it.
