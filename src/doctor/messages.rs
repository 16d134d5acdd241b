//! All messages of doctor, except those about backup servers.

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
    NO_PVE: Fail "cannot determine the version of Proxmox VE: {reason}"
        => "pveversion";
    PROGRAMS: Ok "Stillpoint {version} and its hooks are in place";
    NO_PROGRAM: Fail "{path} is missing or not executable"
        => "apt install --reinstall ./stillpoint_{version}*.deb";
    SYSTEMD: Ok "work that goes on after a backup (guard, collect, settle) runs in systemd units";
    NO_SYSTEMD: Warn "work that goes on after a backup (guard, collect, settle) runs in plain processes, which end with the service that made the backup: {reason}"
        => "ls -ld /run/systemd/system /usr/bin/systemd-run";
    RECOVER: Ok "after a power cut, the next boot starts what a backup left stopped";
    NO_RECOVER: Warn "after a power cut, nothing starts what a backup left stopped: stillpoint-recover.service is not enabled"
        => "systemctl enable stillpoint-recover.service";
    REFRESH: Ok "once a day, Stillpoint asks the backup servers again about proven backups";
    NO_REFRESH: Warn "nobody notices when a backup server later finds a proven backup damaged: stillpoint-refresh.timer is not enabled"
        => "systemctl enable --now stillpoint-refresh.timer";
    MAIL: Ok "problems that are found after a job are mailed to root";
    NO_MAIL: Warn "problems that are found after a job are only in the system's log: /usr/sbin/sendmail is missing"
        => "apt install postfix";
    SETTINGS: Ok "all settings files are valid";
    SETTINGS_BROKEN: Warn "{complaint}"
        => "stillpoint config";
    METRICS: Ok "metrics are written to {path}";
    NO_METRICS: Warn "no metrics are written to {path} (report.textfile-directory): {reason}"
        => "ls -ld {path}";
    CLOCK: Ok "the clock is synchronised";
    CLOCK_FREE: Warn "the clock is not synchronised: the times of backups may be wrong, and with them what is pruned"
        => "apt install chrony", "timedatectl";
    SPACE: Ok "{free} free for {purpose}";
    LITTLE_SPACE: Warn "only {free} free at {path} for {purpose}"
        => "df -h {path}";
    NO_SPACE: Fail "{free} free at {path}: too little for {purpose}"
        => "df -h {path}";
    SPACE_UNKNOWN: Warn "cannot determine the free space at {path}: {reason}"
        => "df -h {path}";
    READ_ONLY: Fail "{path} is read-only: Stillpoint or vzdump cannot write there ({purpose})"
        => "findmnt -T {path}", "journalctl -k -p err";
    NO_TMPDIR: Fail "every backup fails: {path}, tmpdir in /etc/vzdump.conf, does not exist"
        => "mkdir -p {path}";

    // The script that vzdump calls.
    SCRIPT: Ok "vzdump calls Stillpoint in every backup of this node";
    NO_SCRIPT: Fail "vzdump does not call Stillpoint: /etc/vzdump.conf has no script"
        => "stillpoint register";
    OTHER_SCRIPT: Fail "vzdump calls {script} and not Stillpoint"
        => "stillpoint register";
    NO_VZDUMP_CONF: Fail "cannot read /etc/vzdump.conf: {reason}"
        => "ls -l /etc/vzdump.conf";
    JOBS: Ok "{count}, none with a script of its own";
    JOB_SCRIPT: Warn "this job calls {script} in place of the node's script: its backups are not consistent"
        => "pvesh set /cluster/backup/{job} --delete script";
    JOB_CUT: Fail "line {line} of /etc/pve/jobs.cfg is blank within this job: Proxmox VE ignores the lines below it ({keys})"
        => "sed -i {line}d /etc/pve/jobs.cfg";
    JOB_LINE: Warn "line {line} of /etc/pve/jobs.cfg is not valid, and Proxmox VE ignores it: {text}"
        => "sed -n {line}p /etc/pve/jobs.cfg";
    NO_JOBS_CFG: Fail "cannot read /etc/pve/jobs.cfg: {reason}"
        => "ls -l /etc/pve/jobs.cfg";

    // The cluster.
    QUORUM: Ok "the cluster has quorum";
    NO_QUORUM: Fail "the cluster has no quorum: /etc/pve is read-only, so backups fail, and no guest starts"
        => "pvecm status";
    NODES: Ok "Stillpoint {version} is on {count}";
    NO_NOTE: Warn "the other nodes cannot see that Stillpoint is installed here: {reason}"
        => "ls -ld /etc/pve/stillpoint/nodes";
    NODES_UNKNOWN: Warn "cannot determine the nodes of the cluster: {reason}"
        => "pvecm nodes";
    NODE_WITHOUT: Warn "Stillpoint seems not to be installed on this node: it does nothing for guests that are there or move there"
        => "scp stillpoint_{version}*.deb root@{node}:", "ssh root@{node} 'apt install ./stillpoint_*.deb && stillpoint doctor'";
    NODE_OTHER: Warn "this node has Stillpoint {theirs}, not {version} as here"
        => "scp stillpoint_{version}*.deb root@{node}:", "ssh root@{node} 'apt install ./stillpoint_*.deb && stillpoint doctor'";
    NODE_DAMAGED: Warn "what this node has recorded in /etc/pve/stillpoint/nodes is not valid: {reason}"
        => "ssh root@{node} stillpoint doctor";
    NODE_NO_SNIPPET: Warn "guests with the hookscript {script} cannot start on this node: the snippet is missing there"
        => "ssh root@{node} stillpoint enable --all";

    // What backups have left behind.
    LEFT_NOTHING: Ok "no lock or snapshot of a backup that is over";
    GUESTS_UNKNOWN: Fail "cannot list the guests: {reason}"
        => "ls -l /etc/pve/lxc";
    NO_CONFIG: Warn "cannot read {path}: {reason}"
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
    RUN_DAMAGED: Fail "cannot read what its last backup left stopped: {reason}"
        => "stillpoint recover";
    NO_RUNS: Ok "no backup is running, and none has left anything stopped";
    VERIFIES: Ok "{count} under way";
    VERIFY_OLD: Warn "{count} under way for more than a day, the oldest of guest {vmid} on {storage}"
        => "stillpoint collect";
    VERIFY_DAMAGED: Warn "{count} damaged and never collected (/var/lib/stillpoint/verifies)"
        => "ls -l /var/lib/stillpoint/verifies";
    JOURNAL: Ok "{count} in the journal, all valid";
    JOURNAL_DAMAGED: Warn "{count} damaged, the first of them line {line} of {file}: {reason}"
        => "sed -n {line}p {file}";
    NO_STATE: Fail "cannot read Stillpoint's own state: {reason}"
        => "ls -lR /var/lib/stillpoint";

    // Guests.
    NO_ENGINES: Ok "{count} not running, or without a container engine that runs";
    GUEST_UNKNOWN: Warn "cannot look at it: {reason}"
        => "pct status {vmid}";
    ENGINE: Ok "{name}: {count} of {engine}";
    NO_ENGINE: Fail "containers of it cannot be brought to rest: {reason}";
    STARTS: Ok "its engine starts containers: last seen at {time} ({versions})";
    STARTS_UNKNOWN: Ok "no container has started since the guest's start: the next backup tests it, or `stillpoint try {vmid}` does now";
    NO_START: Warn "backups do not stop its containers, because they might not start again: {reason}"
        => "stillpoint try {vmid}";
    PLAN: Warn "{note}"
        => "stillpoint plan {vmid}";
    SLOW_STOP: Warn "stopping its containers may take {chain} s (their own stop timeouts), but Stillpoint gives up after {limit} s (quiesce.hold-limit): if they need longer, the backup is not consistent"
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
    DROP_IN: Ok "Stillpoint is called at the start of every guest of this node";
    LOOKED_AFTER: Ok "{count} with an engine; Stillpoint is called at each start";
    NOT_LOOKED_AFTER: Warn "nothing calls Stillpoint when it starts: after a restore, {names} will stay down"
        => "stillpoint enable {vmid}";
    NO_IDENTITY: Warn "nothing calls Stillpoint when it starts: a copy restored beside it would have its MAC and its name"
        => "stillpoint enable {vmid}";
    OTHER_HOOKSCRIPT: Warn "its hookscript is {script}: Stillpoint is not called when it starts"
        => "stillpoint enable {vmid}";
    NO_SNIPPET: Fail "it cannot start: its hookscript {script} is missing or not executable"
        => "stillpoint enable {vmid}";
    NO_OTHER_SNIPPET: Fail "it cannot start: its hookscript {script} is missing or not executable"
        => "{tool} set {vmid} --delete hookscript";
    SNIPPET_UNKNOWN: Warn "cannot determine where its hookscript {script} lies: {reason}"
        => "pvesm path {script}";

    // Storages.
    NO_STORAGE: Warn "no storage is a Proxmox Backup Server, so no backup is verified"
        => "pvesm add pbs NAME --server HOST --datastore DATASTORE --username 'USER@pbs!TOKEN' --fingerprint FINGERPRINT --encryption-key autogen --password   # asks for the secret",
           "proxmox-backup-client key paperkey --output-format text /etc/pve/priv/storage/NAME.enc   # print it, keep it elsewhere";
    NO_STORAGE_CFG: Fail "cannot read /etc/pve/storage.cfg: {reason}"
        => "ls -l /etc/pve/storage.cfg";
    OTHER_STORAGE: Fail "there is no storage of type pbs with this name"
        => "pvesm status --content backup";

    // Any check.
    NO_ANSWER: Fail "no answer within {limit} s";
}
