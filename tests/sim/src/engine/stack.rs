//! Stacks that the simulated guests run.

use super::container::{Restart, Spec, Status};
use std::time::Duration;

/// A small shop: a web service that needs a healthy database and a cache, and a migration that
/// ended long ago. Only two of the three come back by themselves when their guest boots.
pub fn shop() -> Vec<Spec> {
    let mut db = Spec::service("shop", "db").takes(200, 120);
    db.image = "postgres:17".to_owned();
    db.healthy_after = Some(Duration::from_millis(150));
    db.volumes = vec![("shop_data".to_owned(), "/var/lib/postgresql/data".to_owned())];
    let mut cache = Spec::service("shop", "cache").takes(40, 50);
    cache.image = "redis:8".to_owned();
    cache.restart = Restart::No;
    let mut web = Spec::service("shop", "web")
        .depends_on("db:service_healthy:false,cache:service_started:false")
        .takes(90, 80)
        .restart(Restart::Always);
    web.image = "nginx:1.29".to_owned();
    let migration =
        Spec::service("shop", "old-migration").restart(Restart::No).status(Status::Exited);
    vec![db, cache, web, migration]
}

/// A container made with `--rm`: stopping it deletes it.
pub fn throwaway() -> Spec {
    let mut spec = Spec::service("shop", "import");
    spec.labels.clear();
    spec.restart = Restart::No;
    spec.auto_remove = true;
    spec
}
