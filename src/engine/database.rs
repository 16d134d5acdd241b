//! Recognises database containers, for stacks whose labels give no stop order.

/// Parts of the names of database images; `redis` matches `redis-stack` and `bitnami/redis` too.
#[rustfmt::skip]
const NAMES: [&str; 45] = [
    "postgres", "postgresql", "postgis", "timescaledb", "pgvector", "pgvecto", "mariadb", "mysql",
    "percona", "mongo", "mongodb", "redis", "valkey", "keydb", "dragonfly", "influxdb",
    "clickhouse", "cassandra", "scylla", "couchdb", "couchbase", "arangodb", "neo4j",
    "elasticsearch", "opensearch", "rethinkdb", "cockroach", "mssql", "oracle", "firebird", "db2",
    "surrealdb", "etcd", "victoria", "questdb", "qdrant", "weaviate", "milvus", "meilisearch",
    "typesense", "solr", "memcached", "rabbitmq", "kafka", "minio",
];

/// Images whose own name says nothing: `mcr.microsoft.com/mssql/server`.
const WHOLE_NAMES: [&str; 2] = ["mssql/server", "azure-sql-edge"];

/// Parts of the names of images that only talk to a database: `mongo-express`, `postgres-exporter`.
#[rustfmt::skip]
const CLIENTS: [&str; 13] = [
    "admin", "backup", "client", "commander", "dashboards", "dump", "exporter", "express", "gui",
    "insight", "proxy", "ui", "web",
];

/// The programs of databases.
#[rustfmt::skip]
const PROGRAMS: [&str; 14] = [
    "postgres", "mariadbd", "mysqld", "mongod", "redis-server", "valkey-server", "keydb-server",
    "influxd", "influxdb3", "clickhouse", "clickhouse-server", "cassandra", "etcd", "cockroach",
];

/// Where databases mount their data in the container: `/var/lib/postgresql` includes
/// `/var/lib/postgresql/data`.
#[rustfmt::skip]
const PLACES: [&str; 12] = [
    "/var/lib/postgresql", "/var/lib/mysql", "/var/lib/mariadb", "/data/db", "/var/lib/mongodb",
    "/var/lib/redis", "/var/lib/influxdb", "/var/lib/influxdb2", "/var/lib/clickhouse",
    "/var/lib/cassandra", "/bitnami/postgresql", "/bitnami/mariadb",
];

/// Whether the image, or the first words of its command, is a database's.
pub fn is_one<'a>(image: &str, mut command: impl Iterator<Item = &'a str>) -> bool {
    let base = |path: &'a str| path.rsplit('/').next().unwrap_or(path);
    if name_of(image).any(|word| CLIENTS.contains(&word)) {
        return false;
    }
    let name_at = image.rfind('/').map_or(0, |slash| slash + 1);
    let tag_at = image[name_at..].find([':', '@']).map_or(image.len(), |at| name_at + at);
    let plain = &image[..tag_at];
    if WHOLE_NAMES.iter().any(|name| plain.ends_with(name)) {
        return true;
    }
    name_of(image).any(|word| NAMES.contains(&word))
        || command.any(|word| PROGRAMS.contains(&base(word)))
}

/// Whether a database mounts its data at this place of a container.
pub fn is_place(path: &str) -> bool {
    PLACES.iter().any(|place| {
        path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The words of an image's name, without registry, tag and digest.
fn name_of(image: &str) -> impl Iterator<Item = &str> {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or(name);
    name.split(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_known_by_its_image_or_by_what_it_runs() {
        for image in [
            "postgres:16-alpine",
            "docker.io/library/mariadb@sha256:00",
            "registry.example:5000/bitnami/postgresql:15",
            "timescale/timescaledb-ha:pg16",
            "valkey/valkey",
            "redis/redis-stack-server",
            "tensorchord/pgvecto-rs:pg14-v0.2.0",
            "mcr.microsoft.com/mssql/server:2022-latest",
            "gvenzl/oracle-free",
            "rabbitmq:3-management",
        ] {
            assert!(is_one(image, [].into_iter()), "{image}");
        }
        for image in [
            "nginx",
            "mongo-express:1",
            "prodrigestivill/postgres-backup-local",
            "prometheuscommunity/postgres-exporter",
            "registry.example/postgres/app:mysql",
            "",
        ] {
            assert!(!is_one(image, [].into_iter()), "{image}");
        }
        assert!(is_one("shop-store", ["docker-entrypoint.sh", "postgres"].into_iter()));
        assert!(is_one("sha256:00", ["/usr/bin/mongod"].into_iter()));
        assert!(!is_one("mysql-backup", ["/usr/bin/mysqld"].into_iter()));
    }

    #[test]
    fn a_database_is_known_by_where_its_data_is() {
        assert!(is_place("/var/lib/postgresql/data") && is_place("/data/db"));
        assert!(!is_place("/var/lib/mysql-files") && !is_place("/data"));
    }
}
