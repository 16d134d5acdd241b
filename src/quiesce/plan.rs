use std::collections::HashMap;
use std::time::Duration;

use super::left_out::Paths;
use super::namespaces::Needs;
use super::order::{acyclic, sorted};
use super::unordered;
use super::way_back::way_back;
use crate::config::{Settings, Strategy};
use crate::engine::{Container, Health, Status};
use crate::guest::Volumes;
use crate::run::{HealthBefore, MOST_DEPENDENCIES, QuiescedContainer, Step};
use crate::sys::text;
use crate::vzdump::Vmid;

/// The label that sets how a container is quiesced: `stop`, `pause` or `none`.
pub const STRATEGY_LABEL: &str = "stillpoint.quiesce";

/// The label with a command to run in the container before it is stopped or paused.
pub const BEFORE_LABEL: &str = "stillpoint.before";

/// The label with a command to run in the container once it is back.
pub const AFTER_LABEL: &str = "stillpoint.after";

/// What will be done with the containers of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// How many containers somebody has paused before; they stay so.
    pub paused_before: usize,
    /// What an admin should know about it.
    pub notes: Vec<String>,
    /// Why the backup does not contain the containers themselves, if so.
    pub incomplete: Option<String>,
}

/// Decides what is done with which container, and in which order. Only running ones are touched:
/// those that were paused, restarting or stopped before are not.
pub fn plan(vmid: Vmid, containers: &[Container], settings: &Settings, volumes: &Volumes) -> Plan {
    let mut plan = Plan::default();
    for container in containers.iter().filter(|container| container.status == Status::Restarting) {
        plan.notes.push(format!(
            "{} is restarting again and again and is left alone",
            text::printable(&container.name, 80)
        ));
    }
    for container in containers.iter().filter(|container| container.status == Status::Paused) {
        plan.paused_before += 1;
        plan.notes.push(format!(
            "{} was paused before and is left as it is",
            text::printable(&container.name, 80)
        ));
    }
    let needs = Needs::of(containers);
    let actions = actions(containers, &needs, settings.strategy_of(vmid.0), &mut plan.notes);
    let mut paths = Paths::new(volumes);
    let mut running = Vec::new();
    for (index, (container, action)) in containers.iter().zip(actions).enumerate() {
        let Some(action) = action else { continue };
        running.push(index);
        let known = QuiescedContainer {
            id: container.id.clone(),
            engine: container.engine.clone(),
            name: container.name.clone(),
            project: container.project().map(String::from),
            service: container.service().map(String::from),
            action,
            started_at: container.started_at.clone(),
            after: Vec::new(),
            not_in_backup: paths.of(container),
        };
        plan.steps.push(Step {
            stop_timeout: container.stop_timeout,
            health_before: match container.health {
                Some(Health::Unhealthy) => HealthBefore::Ill,
                _ => HealthBefore::NotIll,
            },
            before: container.label(BEFORE_LABEL).map(String::from),
            way_back: way_back(container),
            runtime: container.runtime.clone(),
            ..Step::from(known)
        });
    }
    if paths.cut {
        plan.notes.push("more data than is named here is not in the backup".to_string());
    }
    let mut after = dependents(containers, &running, &needs, &mut plan.notes);
    let of_them: Vec<&Container> = running.iter().map(|index| &containers[*index]).collect();
    unordered::databases_last(&of_them, &mut after, &mut plan.notes);
    if acyclic(&mut after) > 0 {
        plan.notes.push(
            "containers depend on each other in a circle; one of these dependencies is ignored"
                .to_string(),
        );
    }
    for (step, after) in plan.steps.iter_mut().zip(after) {
        step.after = after;
    }
    plan
}

/// The action for each container; `None` for those that are not touched.
fn actions(
    containers: &[Container],
    needs: &Needs,
    default: Strategy,
    notes: &mut Vec<String>,
) -> Vec<Option<Strategy>> {
    let name = |index: usize| text::printable(&containers[index].name, 80);
    let mut actions = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        if container.status != Status::Running {
            actions.push(None);
            continue;
        }
        let (mut action, note) = strategy(container, default);
        notes.extend(note);
        if needs.is_orphan(index) {
            notes.push(format!(
                "{} cannot start again once it is stopped: it shares a namespace with, or is linked to, a container that does not run",
                name(index)
            ));
            if action == Strategy::Stop {
                action = Strategy::Pause;
            }
        }
        actions.push(Some(action));
    }
    for index in needs.spare_owners(&mut actions) {
        notes.push(format!(
            "{} is paused instead of stopped: a container that is not stopped with it shares its namespaces",
            name(index)
        ));
    }
    actions
}

fn strategy(container: &Container, default: Strategy) -> (Strategy, Option<String>) {
    let name = text::printable(&container.name, 80);
    let (wanted, note) = match container.label(STRATEGY_LABEL) {
        None => (default, None),
        Some("stop") => (Strategy::Stop, None),
        Some("pause") => (Strategy::Pause, None),
        Some("none") => (Strategy::None, None),
        Some(other) => {
            let other = text::printable(other, 40);
            let note = format!(
                "{name}: its label {STRATEGY_LABEL}={other} is not known (stop, pause or none)"
            );
            (default, Some(note))
        }
    };
    // Stopping a --rm container deletes it; for a stopped task Swarm starts another container on
    // the same volumes; the command of a one-off, such as an import or a migration, would run
    // again.
    let only_once = container.auto_remove || container.is_swarm_task() || container.is_one_off();
    if wanted == Strategy::Stop && only_once {
        return (Strategy::Pause, note);
    }
    (wanted, note)
}

/// For each of the running containers, given by index, those of them that depend on it: by
/// compose's labels within its project and engine, and by shared namespaces.
fn dependents(
    containers: &[Container],
    running: &[usize],
    needs: &Needs,
    notes: &mut Vec<String>,
) -> Vec<Vec<usize>> {
    let mut services: HashMap<(&str, &str, &str), Vec<usize>> = HashMap::new();
    let mut place_of = HashMap::new();
    for (place, index) in running.iter().enumerate() {
        let container = &containers[*index];
        place_of.insert(*index, place);
        if let (Some(project), Some(service)) = (container.project(), container.service()) {
            services.entry((&container.engine, project, service)).or_default().push(place);
        }
    }
    let mut dependents = vec![Vec::new(); running.len()];
    let mut count = 0;
    for (place, index) in running.iter().enumerate() {
        let container = &containers[*index];
        let of_compose = container.project().into_iter().flat_map(|project| {
            let services = &services;
            container.depends_on().flat_map(move |service| {
                services.get(&(&container.engine, project, service)).into_iter().flatten()
            })
        });
        let owners = needs.owners(*index).filter_map(|owner| place_of.get(&owner));
        for other in of_compose.chain(owners) {
            count += 1;
            if count > MOST_DEPENDENCIES {
                notes.push("there are too many dependencies; some are ignored".to_string());
                return dependents;
            }
            // The indices come in ascending order, so a duplicate is the last one.
            if dependents[*other].last() != Some(&place) {
                dependents[*other].push(place);
            }
        }
    }
    dependents
}

impl Plan {
    /// The limit for stopping everything: the configured one, or the longest chain of the
    /// containers' own stop timeouts if that is longer; always below the hold limit and within half
    /// of the guest's budget.
    pub fn time_limit(&self, settings: &Settings) -> Duration {
        let chain = self.longest_chain();
        let most = settings.quiesce.hold_limit.mul_f32(0.9).min(settings.quiesce.budget / 2);
        settings.quiesce.time_limit.max(chain).min(most)
    }

    /// How long stopping everything takes if each container needs its full stop timeout.
    pub fn longest_chain(&self) -> Duration {
        let own = |step: &Step| if step.action == Strategy::Stop { step.stop_timeout } else { 0 };
        let chain = self.accumulate(own).into_iter().max();
        // How long the engine needs after the timeout to kill and clean up.
        Duration::from_secs(chain.unwrap_or(0)).saturating_add(Duration::from_secs(5))
    }

    /// The steps in stop order; those in one wave are stopped together.
    pub fn waves(&self) -> Vec<Vec<&Step>> {
        let wave_of = self.accumulate(|_| 1);
        let mut waves = vec![Vec::new(); wave_of.iter().max().copied().unwrap_or(0) as usize];
        for (step, wave) in self.steps.iter().zip(wave_of) {
            waves[wave as usize - 1].push(step);
        }
        waves
    }

    /// For each step, the sum of `own` along the longest chain that ends with it.
    fn accumulate(&self, own: impl Fn(&Step) -> u64) -> Vec<u64> {
        let after: Vec<Vec<usize>> = self.steps.iter().map(|step| step.after.clone()).collect();
        let mut sums = vec![0; self.steps.len()];
        for index in sorted(&after) {
            let before = after[index].iter().map(|other| sums[*other]).max().unwrap_or(0);
            sums[index] = before + own(&self.steps[index]);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Data;
    use crate::guest::Mounts;
    use crate::pve::Config;

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        Container {
            id: format!("{:0>64}", name.len()),
            engine: String::new(),
            name: name.into(),
            labels: labels
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            status: Status::Running,
            started_at: "2026-11-21T23:00:00Z".into(),
            exit_code: 0,
            finished_at: String::new(),
            stop_timeout: 10,
            oom_killed: false,
            stops_by_kill: false,
            auto_remove: false,
            restart: crate::engine::Restart::UnlessStopped,
            database: false,
            health: None,
            data: Vec::new(),
            retries: 0,
            created: String::new(),
            check: None,
            networks: Vec::new(),
            fixed_mac: false,
            ports: Vec::new(),
            taken_ports: Vec::new(),
            runtime: String::new(),
            joins: Vec::new(),
            links: Vec::new(),
        }
    }

    fn service(name: &str, depends_on: &str) -> Container {
        container(
            name,
            &[
                ("com.docker.compose.project", "shop"),
                ("com.docker.compose.service", name),
                ("com.docker.compose.depends_on", depends_on),
            ],
        )
    }

    fn container_of_swarm() -> Container {
        container("db.1.x", &[("com.docker.swarm.task.id", "x")])
    }

    fn names(plan: &Plan) -> Vec<Vec<&str>> {
        plan.waves()
            .into_iter()
            .map(|wave| wave.into_iter().map(|step| step.name.as_str()).collect())
            .collect()
    }

    fn planned(containers: &[Container]) -> Plan {
        plan(Vmid(9001), containers, &Settings::default(), &Volumes::default())
    }

    #[test]
    fn dependents_stop_before_what_they_depend_on() {
        let plan = planned(&[
            service("db", ""),
            service("web", "db:service_healthy:false,cache:service_started:false"),
            service("cache", ""),
            service("proxy", "web:service_started:true"),
        ]);
        assert_eq!(names(&plan), [vec!["proxy"], vec!["web"], vec!["db", "cache"]]);
    }

    #[test]
    fn another_project_has_services_of_the_same_name() {
        let mut other = service("web", "db:service_started:false");
        other.labels.insert("com.docker.compose.project".into(), "blog".into());
        assert_eq!(names(&planned(&[service("db", ""), other])), [vec!["db", "web"]]);
    }

    #[test]
    fn another_engine_has_projects_of_the_same_name() {
        let engine = "/run/podman/podman.sock".to_string();
        let other = Container { engine: engine.clone(), ..service("web", "db::") };
        let plan = planned(&[service("db", ""), other]);
        assert_eq!(names(&plan), [vec!["db", "web"]]);
        assert_eq!(plan.steps[1].engine, engine);
    }

    #[test]
    fn what_does_not_run_is_left_alone() {
        for status in [Status::Paused, Status::Restarting, Status::Exited, Status::Other] {
            let container = Container { status, ..service("db", "") };
            assert!(planned(&[container]).steps.is_empty(), "{status:?}");
        }
    }

    #[test]
    fn what_was_paused_before_is_told() {
        let container = Container { status: Status::Paused, ..service("db", "") };
        let plan = planned(&[container, service("web", "")]);
        assert!(plan.paused_before == 1 && plan.notes[0].starts_with("db was paused before"));
        assert!(planned(&[service("web", "")]).paused_before == 0);
    }

    #[test]
    fn a_label_speaks_for_its_container() {
        let settings = Settings::default();
        for (label, strategy) in
            [("stop", Strategy::Stop), ("pause", Strategy::Pause), ("none", Strategy::None)]
        {
            let container = container("x", &[("stillpoint.quiesce", label)]);
            assert_eq!(
                plan(Vmid(1), &[container], &settings, &Volumes::default()).steps[0].action,
                strategy
            );
        }
        let odd = planned(&[container("x", &[("stillpoint.quiesce", "freeze\x1b")])]);
        assert_eq!(odd.steps[0].action, Strategy::Stop);
        assert!(odd.notes[0].contains("freeze\\u{1b}"), "{:?}", odd.notes);
    }

    #[test]
    fn a_container_that_a_stop_would_delete_is_paused() {
        let container = Container { auto_remove: true, ..service("job", "") };
        assert_eq!(planned(&[container]).steps[0].action, Strategy::Pause);
        let task = container_of_swarm();
        assert_eq!(planned(&[task]).steps[0].action, Strategy::Pause);
    }

    #[test]
    fn a_one_off_is_paused() {
        let mut one_off = service("web", "");
        one_off.labels.insert("com.docker.compose.oneoff".into(), "True".into());
        assert_eq!(planned(&[one_off]).steps[0].action, Strategy::Pause);
        let mut of_service = service("web", "");
        of_service.labels.insert("com.docker.compose.oneoff".into(), "False".into());
        assert_eq!(planned(&[of_service]).steps[0].action, Strategy::Stop);
    }

    #[test]
    fn who_shares_a_namespace_is_stopped_before_its_owner() {
        let vpn = container("vpn", &[]);
        let torrent = Container { joins: vec![vpn.id.clone()], ..container("torrent", &[]) };
        let plan = planned(&[vpn.clone(), torrent.clone()]);
        assert_eq!(names(&plan), [vec!["torrent"], vec!["vpn"]]);
        let linked = Container { links: vec!["vpn".into()], ..container("linked", &[]) };
        assert_eq!(names(&planned(&[linked, vpn])), [vec!["linked"], vec!["vpn"]]);
        let orphan = planned(&[torrent]);
        assert_eq!(orphan.steps[0].action, Strategy::Pause);
        assert!(orphan.notes[0].starts_with("torrent cannot start again once it is stopped"));
    }

    #[test]
    fn an_owner_is_not_stopped_under_one_that_stays() {
        let vpn = container("vpn", &[]);
        let job = container("import", &[("stillpoint.quiesce", "none")]);
        let job = Container { joins: vec![vpn.id.clone()], ..job };
        let plan = planned(&[vpn, job]);
        assert_eq!(plan.steps[0].action, Strategy::Pause);
        assert!(plan.notes[0].starts_with("vpn is paused instead of stopped"), "{:?}", plan.notes);
    }

    #[test]
    fn a_circle_is_cut_open() {
        let plan = planned(&[service("a", "b:x:y"), service("b", "a:x:y"), service("c", "c:x:y")]);
        assert_eq!(plan.waves().iter().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(plan.notes.len(), 1);
    }

    #[test]
    fn the_time_limit_is_the_longest_chain_but_below_the_hold_limit_and_half_of_the_budget() {
        let slow = |name: &str, depends_on: &str, stop_timeout| Container {
            stop_timeout,
            ..service(name, depends_on)
        };
        let mut settings = Settings::default();
        assert_eq!(planned(&[slow("db", "", 3600)]).time_limit(&settings).as_secs(), 90);
        settings.quiesce.budget = Duration::from_secs(3600);
        let limit = |containers: &[Container]| planned(containers).time_limit(&settings).as_secs();
        assert_eq!(limit(&[slow("db", "", 10)]), 60);
        assert_eq!(limit(&[slow("db", "", 90), slow("web", "db::", 30)]), 125);
        assert_eq!(limit(&[slow("db", "", 3600)]), 270);
    }

    #[test]
    fn a_chain_of_ten_thousand_is_planned() {
        let containers: Vec<Container> =
            (0..10_000).map(|i| service(&format!("s{i}"), &format!("s{}:x:y", i + 1))).collect();
        let plan = planned(&containers);
        assert_eq!(plan.time_limit(&Settings::default()).as_secs(), 90);
    }

    #[test]
    fn data_outside_the_backup_is_named() {
        let config = Config::parse("mp0: local:x,mp=/srv\n");
        let mounts = Mounts::parse("2 1 0:9 / /mnt/nas rw - cifs //192.0.2.10/p rw\n");
        let data = ["/srv/pg", "/var/lib/pg", "/mnt/nas/photos", "/srv/pg"].map(|path| Data {
            path: path.to_string(),
            writable: true,
            volume: None,
        });
        let container = Container { data: data.to_vec(), ..service("db", "") };
        let volumes = Volumes::new(Some(config), mounts);
        let plan = plan(Vmid(1), &[container], &Settings::default(), &volumes);
        assert_eq!(plan.steps[0].not_in_backup, ["/srv/pg", "/mnt/nas/photos"]);
    }
}
