//! The backup server that a node's storage leads to.

use super::Node;
use anyhow::Result;

pub struct BackupServer {}
impl BackupServer {
    pub fn begin(&self, _t: &str) -> Result<()> {
        Ok(())
    }
    pub fn finish(&self, _t: &str) -> Result<()> {
        Ok(())
    }
    pub fn give_up(&self, _t: &str) -> Result<()> {
        Ok(())
    }
    pub fn connection_lost(&self) -> Result<()> {
        Ok(())
    }
    pub fn is_busy(&self) -> bool {
        false
    }
    pub fn tasks(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
}
impl Node {
    pub fn backup_server(&self) -> Option<&BackupServer> {
        None
    }
    pub fn add_backup_server(&mut self, _id: &str, _ns: Option<&str>) -> Result<()> {
        Ok(())
    }
}
