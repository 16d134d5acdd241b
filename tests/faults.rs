//! Whatever dies, and whenever: every container that ran before a backup runs again. The hook, the
//! guard, vzdump and all of them together are killed at every step on the simulated node, the guest
//! changes meanwhile, and the node's disk fails. See tests/README.md, "Faults".

mod faults {
    mod commands;
    mod disk;
    mod elsewhere;
    mod engine;
    mod guest;
    pub mod harness;
    mod interrupted;
    mod matrix;
    pub mod promise;
    mod random;
    mod revive;
    pub mod scene;
    mod state;
    mod table;
    mod untrusted;

    /// All cases.
    pub fn cases() -> Vec<harness::Case> {
        let mut cases = Vec::new();
        for family in [
            matrix::cases,
            random::cases,
            commands::cases,
            interrupted::cases,
            engine::cases,
            guest::cases,
            elsewhere::cases,
            revive::cases,
            untrusted::cases,
            state::cases,
            disk::cases,
        ] {
            cases.extend(family());
        }
        cases
    }
}

fn main() -> std::process::ExitCode {
    faults::harness::main(&faults::cases())
}
