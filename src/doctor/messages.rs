//! Everything that doctor says, but for what it says of storages.

use super::check::Level;
use super::message::Message;

macro_rules! messages {
    ($($name:ident: $level:ident $text:literal $(=> $($fix:literal),+)?;)*) => {
        $(pub const $name: Message =
            Message { level: Level::$level, text: $text, fix: &[$($($fix),+)?] };)*

        /// All of them, by name.
        pub const ALL: &[(&str, Message)] = &[$((stringify!($name), $name)),*];
    };
}

messages! {
    // The node.
    PVE: Ok "Proxmox VE {version}";
    PVE_UNTRIED: Warn "Proxmox VE {version}: this Stillpoint was tried on 8 and 9";
    NO_PVE: Fail "the version of Proxmox VE can't be told: {reason}"
        => "pveversion";
    PROGRAMS: Ok "Stillpoint {version} and its hooks are in place";
    NO_PROGRAM: Fail "{path} is missing or can't be executed"
        => "apt install --reinstall ./stillpoint_{version}*.deb";
    SYSTEMD: Ok "what outlives a backup runs as a unit of systemd";
    NO_SYSTEMD: Warn "what outlives a backup runs as a plain process, which ends with the service that made the backup: {reason}"
        => "ls -ld /run/systemd/system /usr/bin/systemd-run";
    RECOVER: Ok "a boot brings back what a power cut left stopped";
    NO_RECOVER: Warn "after a power cut nothing brings back what a backup left stopped: stillpoint-recover.service is not enabled"
        => "systemctl enable stillpoint-recover.service";
    REFRESH: Ok "what the backup servers say of proven backups is looked at once a day";
    NO_REFRESH: Warn "nothing notices when a backup server finds a proven backup damaged later: stillpoint-refresh.timer is not enabled"
        => "systemctl enable --now stillpoint-refresh.timer";
    MAIL: Ok "what becomes known after a job is mailed to root";
    NO_MAIL: Warn "what becomes known after a job is in the system's log alone: /usr/sbin/sendmail is missing"
        => "apt install postfix";
    SETTINGS: Ok "the settings are understood";
    SETTINGS_BROKEN: Warn "{complaint}"
        => "stillpoint config";
    METRICS: Ok "metrics are written to {path}";
    NO_METRICS: Warn "no metrics are written to {path} (report.textfile-directory): {reason}"
        => "ls -ld {path}";
    CLOCK: Ok "the clock is synchronised";
    CLOCK_FREE: Warn "nothing keeps the clock right: the times of backups may be wrong, and with them what is pruned"
        => "apt install chrony", "timedatectl";
    SPACE: Ok "{free} free for {purpose}";
    LITTLE_SPACE: Warn "only {free} free at {path} for {purpose}"
        => "df -h {path}";
    NO_SPACE: Fail "{free} free at {path}: too little for {purpose}"
        => "df -h {path}";
    SPACE_UNKNOWN: Warn "the free space at {path} can't be told: {reason}"
        => "df -h {path}";
    READ_ONLY: Fail "{path} is read-only: {purpose} can't be written"
        => "findmnt -T {path}", "journalctl -k -p err";
    NO_TMPDIR: Fail "every backup fails: {path}, tmpdir in /etc/vzdump.conf, is not there"
        => "mkdir -p {path}";

    // What vzdump calls.
    SCRIPT: Ok "vzdump calls Stillpoint in every backup of this node";
    NO_SCRIPT: Fail "vzdump does not call Stillpoint: /etc/vzdump.conf has no script"
        => "stillpoint register";
    OTHER_SCRIPT: Fail "vzdump calls {script} and not Stillpoint"
        => "stillpoint register";
    NO_VZDUMP_CONF: Fail "/etc/vzdump.conf can't be read: {reason}"
        => "ls -l /etc/vzdump.conf";
    JOBS: Ok "{count}, none with a script of its own";
    JOB_SCRIPT: Warn "this job calls {script} in place of the node's script: its backups are not consistent"
        => "pvesh set /cluster/backup/{job} --delete script";
    JOB_CUT: Fail "line {line} of /etc/pve/jobs.cfg is blank within this job: Proxmox VE does not read what stands below it ({keys})"
        => "sed -i {line}d /etc/pve/jobs.cfg";
    JOB_LINE: Warn "line {line} of /etc/pve/jobs.cfg is not understood, and Proxmox VE passes it over: {text}"
        => "sed -n {line}p /etc/pve/jobs.cfg";
    NO_JOBS_CFG: Fail "/etc/pve/jobs.cfg can't be read: {reason}"
        => "ls -l /etc/pve/jobs.cfg";

    // The cluster.
    QUORUM: Ok "the cluster has quorum";
    NO_QUORUM: Fail "the cluster has no quorum: /etc/pve is read-only, so backups fail, and no guest starts"
        => "pvecm status";
    NODES: Ok "Stillpoint {version} is on {count}";
    NO_NOTE: Warn "the other nodes can't see that Stillpoint is on this one: {reason}"
        => "ls -ld /etc/pve/stillpoint/nodes";
    NODES_UNKNOWN: Warn "the nodes of the cluster can't be told: {reason}"
        => "pvecm nodes";
    NODE_WITHOUT: Warn "Stillpoint has not been seen on this node: guests that are there, or move there, are not looked after"
        => "scp stillpoint_{version}*.deb root@{node}:", "ssh root@{node} 'apt install ./stillpoint_*.deb && stillpoint doctor'";
    NODE_OTHER: Warn "this node has Stillpoint {theirs}, not {version} as here"
        => "scp stillpoint_{version}*.deb root@{node}:", "ssh root@{node} 'apt install ./stillpoint_*.deb && stillpoint doctor'";
    NODE_DAMAGED: Warn "the note of this node in /etc/pve/stillpoint/nodes is not understood: {reason}"
        => "ssh root@{node} stillpoint doctor";
    NODE_NO_SNIPPET: Warn "guests with the hookscript {script} can't start on this node: the snippet is missing there"
        => "ssh root@{node} stillpoint enable --all";

    // What backups have left behind.
    LEFT_NOTHING: Ok "no lock or snapshot of a backup that is over";
    GUESTS_UNKNOWN: Fail "the guests can't be told: {reason}"
        => "ls -l /etc/pve/lxc";
    NO_CONFIG: Warn "{path} can't be read: {reason}"
        => "ls -l {path}";
    LOCKED: Fail "a backup that is over left it locked ({lock}), and the next one will fail"
        => "{tool} unlock {vmid}";
    SNAPSHOT: Warn "a backup that is over left its snapshot, which takes up space"
        => "pct delsnapshot {vmid} vzdump --force";
    FROZEN: Fail "it is frozen, and no backup is under way"
        => "stillpoint resume {vmid}";
    RUN: Ok "a backup of it is under way";
    RUN_OPEN: Fail "a backup that is over left {count} stopped"
        => "stillpoint resume {vmid}";
    RUN_DOWN: Fail "a backup that is over left {count} stopped, and the guest is down"
        => "{start}";
    RUN_LEFT: Warn "a backup that is over has not been written into the journal yet"
        => "stillpoint recover";
    RUN_DAMAGED: Fail "what its last backup left stopped can't be read: {reason}"
        => "stillpoint recover";
    NO_RUNS: Ok "no backup is under way or has left anything stopped";
    VERIFIES: Ok "{count} under way";
    VERIFY_OLD: Warn "{count} under way for more than a day, the oldest of guest {vmid} on {storage}"
        => "stillpoint collect";
    VERIFY_DAMAGED: Warn "{count} in /var/lib/stillpoint/verifies not understood, and never collected"
        => "ls -l /var/lib/stillpoint/verifies";
    JOURNAL: Ok "{count} in the journal, all sound";
    JOURNAL_DAMAGED: Warn "{count} damaged, the first of them line {line} of {file}: {reason}"
        => "sed -n {line}p {file}";
    NO_STATE: Fail "what Stillpoint has written down can't be read: {reason}"
        => "ls -lR /var/lib/stillpoint";

    // Guests.
    NO_ENGINES: Ok "{count} not running, or without a container engine that runs";
    GUEST_UNKNOWN: Warn "cannot look at it: {reason}"
        => "pct status {vmid}";
    ENGINE: Ok "{name}: {count} of {engine}";
    NO_ENGINE: Fail "containers of it cannot be brought to rest: {reason}";
    STARTS: Ok "its engine starts containers: it did at {time} ({versions})";
    STARTS_UNKNOWN: Ok "since the guest's start no container was started yet: the next backup tries it, as does `stillpoint try {vmid}`";
    NO_START: Warn "backups do not stop its containers, because they might not start again: {reason}"
        => "stillpoint try {vmid}";
    PLAN: Warn "{note}"
        => "stillpoint plan {vmid}";
    SLOW_STOP: Warn "stopping its containers may take {chain} s by their own stop timeouts, and is given up after {limit} s, \
                     as quiesce.hold-limit says: a backup in which they need longer is not consistent"
        => "stillpoint plan {vmid}";
    LIVE_RESTORE: Warn "live-restore is on: when the guest shuts down, as for a backup in stop mode, its containers are killed";
    STAYS_DOWN: Warn "{names} will stay down when the guest restarts: the restart policy is \"no\"";
    FUSE_MOUNTED: Warn "FUSE file systems are mounted in it ({paths}): freezing it, as snapshot and suspend mode do, can hang"
        => "vzdump {vmid} --mode stop";
    FUSE_ALLOWED: Warn "it may mount FUSE file systems: while one is mounted, freezing it for a backup can hang";
    LEFT_OUT: Warn "data of {names} lies on {path}, which is not in the backup";
    BIND_MOUNT: Warn "data of {names} lies on {path}, a directory or device of the node that no backup of a guest holds: back it up by itself";
    ENGINE_LEFT_OUT: Fail "all of its containers lie on {path}, which is not in the backup";
    ENGINE_BIND_MOUNT: Fail "all of its containers lie on {path}, a directory or device of the node that no backup of a guest holds: back it up by itself";
    MOUNTED: Warn "data of {names} lies on {path} ({kind}), which is mounted from outside of the guest's volumes and is not in the backup: back it up by itself";
    ENGINE_MOUNTED: Fail "all of its containers lie on {path} ({kind}), which is mounted from outside of the guest's volumes and is not in the backup";
    DROP_IN: Ok "every guest of this node is looked after when it starts";
    LOOKED_AFTER: Ok "{count} with an engine, looked after on each start";
    NOT_LOOKED_AFTER: Warn "nothing looks after it when it starts: restored from a backup, {names} will stay down"
        => "stillpoint enable {vmid}";
    NO_IDENTITY: Warn "nothing looks after it when it starts: restored beside it, a copy would have its MAC and its name"
        => "stillpoint enable {vmid}";
    OTHER_HOOKSCRIPT: Warn "its hookscript is {script}: Stillpoint does not look after it when it starts"
        => "stillpoint enable {vmid}";
    NO_SNIPPET: Fail "it can't start: its hookscript {script} is missing or can't be executed"
        => "stillpoint enable {vmid}";
    NO_OTHER_SNIPPET: Fail "it can't start: its hookscript {script} is missing or can't be executed"
        => "{tool} set {vmid} --delete hookscript";
    SNIPPET_UNKNOWN: Warn "where its hookscript {script} lies can't be told: {reason}"
        => "pvesm path {script}";

    // Storages.
    NO_STORAGE: Warn "no storage leads to a Proxmox Backup Server, so no backup is verified"
        => "pvesm add pbs NAME --server HOST --datastore DATASTORE --username 'USER@pbs!TOKEN' --fingerprint FINGERPRINT --encryption-key autogen --password   # asks for the secret",
           "proxmox-backup-client key paperkey --output-format text /etc/pve/priv/storage/NAME.enc   # print it, keep it elsewhere";
    NO_STORAGE_CFG: Fail "/etc/pve/storage.cfg can't be read: {reason}"
        => "ls -l /etc/pve/storage.cfg";
    OTHER_STORAGE: Fail "there is no such storage of a Proxmox Backup Server"
        => "pvesm status --content backup";

    // Any of them.
    NO_ANSWER: Fail "no answer within {limit} s";
}
