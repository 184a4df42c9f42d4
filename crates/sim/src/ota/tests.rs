use super::*;

/// The simulation runs the real rules: without one of them it comes out differently, and the same seed
/// comes out the same.
#[test]
fn a_changed_rule_changes_the_simulation() {
    let all = swarm::scenarios(60);
    let base = swarm::run(&all[0], 1).unwrap();
    assert_eq!(swarm::run(&all[0], 1).unwrap(), base);
    let other = swarm::run(&all[2], 1).unwrap();
    assert_ne!(other.seconds, base.seconds);
    let chosen = swarm::run(&all[3], 1).unwrap();
    assert!(chosen.origin_copies > base.origin_copies, "{chosen:?} {base:?}");
}

#[test]
fn a_staged_fleet_is_later_and_everybody_is_reached() {
    let measured = swarm::run(&swarm::scenarios(60)[0], 1).unwrap();
    let all = fleet::scenarios(2_000);
    let once = fleet::run(&all[0], &measured, 1);
    let staged = fleet::run(&all[2], &measured, 1);
    assert!(staged.hours[0] > once.hours[0] && once.hours[2].is_some());
    assert!(staged.hours[0].unwrap() >= 48.0, "half of them wait for the third day");
    assert!(fleet::run(&all[1], &measured, 1).relay_bytes > 0.0 && once.relay_bytes == 0.0);
}
