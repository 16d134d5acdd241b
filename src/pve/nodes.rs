//! The nodes of the cluster: `/etc/pve/.members`, which pmxcfs provides.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::sys::{Root, file};

const PATH: &str = "/etc/pve/.members";
const LIMIT: u64 = 1 << 20;

/// The content of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The names of all nodes, including this one; empty without a cluster.
    pub names: Vec<String>,
    /// Whether they have a quorum; `None` without a cluster.
    pub quorate: Option<bool>,
}

impl Nodes {
    /// Reads the file; `None` if it is missing.
    pub fn read(root: &Root) -> Result<Option<Nodes>> {
        let text = file::read_text(&root.path(PATH), LIMIT).context(PATH)?;
        text.map(|text| Nodes::parse(&text)).transpose().context(PATH)
    }

    /// Without a cluster, pmxcfs leaves `cluster` and `nodelist` out.
    fn parse(text: &str) -> serde_json::Result<Nodes> {
        #[derive(Deserialize)]
        struct Members {
            cluster: Option<Quorum>,
            #[serde(default)]
            nodelist: BTreeMap<String, IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Quorum {
            quorate: Option<u8>,
        }
        let members: Members = serde_json::from_str(text)?;
        Ok(Nodes {
            names: members.nodelist.into_keys().collect(),
            quorate: members
                .cluster
                .and_then(|cluster| cluster.quorate)
                .map(|quorate| quorate != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_are_read_as_pmxcfs_writes_them() {
        let text = r#"{"nodename": "a", "version": 4,
            "cluster": { "name": "c", "version": 2, "nodes": 2, "quorate": 1 },
            "nodelist": {"a": { "id": 1, "online": 1, "ip": "10.0.0.1"}, "b": { "id": 2, "online": 0}}}"#;
        let both = Nodes { names: vec!["a".into(), "b".into()], quorate: Some(true) };
        assert_eq!(Nodes::parse(text).unwrap(), both);
        let alone = Nodes::parse(r#"{"nodename": "a", "version": 0}"#).unwrap();
        assert_eq!(alone, Nodes::default());
        assert!(Nodes::parse("{").is_err());
    }
}
