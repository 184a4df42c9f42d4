//! When a device does something for others: the owner's settings and what the device notices. Pure.

use ioex_api::When;

use crate::device::DeviceSettings;

/// What a device notices about itself. What cannot be known does not pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Minute of the local day.
    pub(crate) minute: u16,
    /// Whether it runs on battery.
    pub(crate) on_battery: Option<bool>,
    /// Whether its link to the network is metered.
    pub(crate) metered: Option<bool>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Open,
    Paused(Why),
    Off,
}

/// Why a device pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Hours,
    Metered,
    Battery,
    /// What it holds is being moved to another folder.
    Moving,
}

impl Why {
    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Hours => "outside the hours that its owner set",
            Self::Metered => "its link is metered",
            Self::Battery => "it runs on battery",
            Self::Moving => "what it holds is being moved to another folder",
        }
    }
}

fn pauses(when: When, noticed: Option<bool>) -> bool {
    match when {
        When::Pause => true,
        When::Allow => false,
        When::Auto => noticed == Some(true),
    }
}

/// Decides.
pub(crate) fn decide(settings: &DeviceSettings, now: &Conditions) -> Verdict {
    if !settings.enabled {
        return Verdict::Off;
    }
    if settings.hours.is_some_and(|hours| !hours.contains(now.minute)) {
        return Verdict::Paused(Why::Hours);
    }
    if pauses(settings.metered, now.metered) {
        return Verdict::Paused(Why::Metered);
    }
    if pauses(settings.battery, now.on_battery) {
        return Verdict::Paused(Why::Battery);
    }
    Verdict::Open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_pauses_as_its_owner_set() {
        let on = DeviceSettings::default();
        let fine = Conditions { minute: 720, on_battery: Some(false), metered: Some(false) };
        assert_eq!(decide(&on, &fine), Verdict::Open);
        // What is not known does not pause.
        assert_eq!(decide(&on, &Conditions::default()), Verdict::Open);
        let battery = Conditions { on_battery: Some(true), ..fine };
        let metered = Conditions { metered: Some(true), ..fine };
        assert_eq!(decide(&on, &battery), Verdict::Paused(Why::Battery));
        assert_eq!(decide(&on, &metered), Verdict::Paused(Why::Metered));
        let allows = DeviceSettings { metered: When::Allow, battery: When::Allow, ..on.clone() };
        assert_eq!(decide(&allows, &battery), Verdict::Open);
        assert_eq!(decide(&allows, &metered), Verdict::Open);
        let by_hand = DeviceSettings { metered: When::Pause, ..on.clone() };
        assert_eq!(decide(&by_hand, &fine), Verdict::Paused(Why::Metered));
        let by_hand = DeviceSettings { battery: When::Pause, ..on.clone() };
        assert_eq!(decide(&by_hand, &fine), Verdict::Paused(Why::Battery));
        let nights = DeviceSettings { hours: Some("22:00-06:00".parse().unwrap()), ..on.clone() };
        assert_eq!(decide(&nights, &fine), Verdict::Paused(Why::Hours));
        assert_eq!(decide(&nights, &Conditions { minute: 60, ..fine }), Verdict::Open);
        let off = DeviceSettings { enabled: false, ..nights };
        assert_eq!(decide(&off, &fine), Verdict::Off);
    }
}
