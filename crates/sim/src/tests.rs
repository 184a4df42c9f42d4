use ioex_base::DAY_SECONDS;
use ioex_vault::health::Rules;

use crate::{churn::HOMES, scenario::Scenario, tally::Outcome, world::Network};

fn network(wanted: &str, devices: usize, groups: usize) -> Network {
    let wanted = wanted.parse().unwrap();
    Network { population: HOMES, wanted, rules: Rules::default(), devices, groups, days: 120, seed: 1 }
}

fn outcome(network: Network) -> Outcome {
    Scenario { name: "test".into(), set: "test", network, networks: 1 }.run().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_year() {
    let one = outcome(network("rs=4/7/12/16", 100, 50));
    let two = outcome(network("rs=4/7/12/16", 100, 50));
    let other = outcome(Network { seed: 2, ..network("rs=4/7/12/16", 100, 50) });
    let key = |o: &Outcome| (o.repairs, o.available.to_bits(), o.stored_per_byte.to_bits());
    assert_eq!(key(&one), key(&two));
    assert_ne!(key(&one), key(&other));
}

/// The simulation runs the node's own rules: with another number in them it comes to something else.
#[test]
fn a_changed_rule_changes_what_the_simulation_comes_to() {
    let run = |gone_after_days: u64, audits_per_device_day| {
        let mut network = network("replicas=3", 200, 4_000);
        network.rules.gone_after_seconds = gone_after_days * DAY_SECONDS;
        network.rules.audits_per_device_day = audits_per_device_day;
        network.population.cheaters = 0.5;
        outcome(network)
    };
    let usual = run(10, 24);
    let hasty = run(1, 24);
    assert!(hasty.repairs > usual.repairs * 5 / 4, "{} {}", hasty.repairs, usual.repairs);
    let lax = run(10, 6);
    let median = |o: &Outcome| o.noticed[0].first_days[0].unwrap();
    assert!(median(&lax) > 2.0 * median(&usual), "{} {}", median(&lax), median(&usual));
}

/// Also the redundancy comes from the node's own `choose`.
#[test]
fn auto_is_what_the_node_would_choose() {
    assert_eq!(outcome(network("auto", 8, 5)).redundancy, "rs=2/5/6/8");
    assert_eq!(outcome(network("auto", 3, 5)).redundancy, "replicas=3");
}

#[test]
fn one_copy_is_lost_with_its_device_and_a_code_is_not() {
    let mut doomed = network("replicas=1", 1_000, 300);
    doomed.population.lifetime_days = 91.0;
    let got = outcome(doomed.clone());
    // 1 - e^(-120/91) = 0.73 of 300, with a standard deviation of 8, and some disks and cheaters.
    assert!((195..=260).contains(&got.lost), "{}", got.lost);
    assert_eq!(*got.lost_by_day.last().unwrap(), got.lost);
    assert!(got.lost_by_day.windows(2).all(|days| days[0] <= days[1]));
    let code = Network { wanted: "rs=10/20/30/40".parse().unwrap(), ..doomed };
    assert_eq!(outcome(code).lost, 0);
}

/// Without repair, three copies go as three independent devices do: (1 - e^-t)^3 of them.
#[test]
fn losses_without_repair_follow_the_formula() {
    let mut alone = network("replicas=3", 3_000, 3_000);
    alone.population.lifetime_days = 120.0;
    alone.population.cheaters = 0.0;
    alone.population.disk_losses_per_year = 1e-9;
    alone.rules.gone_after_seconds = 1_000 * DAY_SECONDS;
    let got = outcome(alone);
    // (1 - 1/e)^3 = 0.2526; 758 of 3,000, with a standard deviation of 24.
    assert!((660..=860).contains(&got.lost), "{}", got.lost);
    assert_eq!(got.repairs, 0);
}

#[test]
fn availability_follows_the_habits() {
    let mut still = network("replicas=1", 2_000, 2_000);
    still.population.lifetime_days = 1e6;
    still.population.absences_per_year = 0.001;
    still.population.cheaters = 0.0;
    let got = outcome(still);
    // Devices that are on at noon are given a shard: of 0.686 that are on 98 % of the time, 0.2 on 62 % and
    // 0.03 on 30 %, the mean is 0.88.
    assert!((0.85..0.91).contains(&got.available), "{}", got.available);
    assert!(got.available_worst_hour <= got.available);
    assert!((got.stored_per_byte - 1.0).abs() < 0.02, "{}", got.stored_per_byte);
}

/// Devices that had left came back from absences that were planned before, were taken for online, and
/// what they had held was never made anew.
#[test]
fn who_left_does_not_come_back() {
    let mut restless = network("replicas=5", 500, 500);
    restless.population.lifetime_days = 91.0;
    restless.population.absences_per_year = 25.0;
    restless.population.absence_days = 2.0;
    // Nobody takes their places, which would end it.
    restless.population.vacant_days = 1e6;
    let got = outcome(restless);
    assert!(got.lost < 10, "{}", got.lost);
}
