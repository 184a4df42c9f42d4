//! Arguments of `device`: what this device does for others.

use std::path::PathBuf;

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use ioex_api::When;
use ioex_base::ContentAddress;

use crate::{device, size};

/// `device …`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Show the settings, and how the lent space is used
    Show,
    /// Change settings, at once and for later starts
    Set(DeviceSetArgs),
    /// List what this device holds for others
    Shards,
    /// Delete what has ended; before its end it is promised, and kept
    Delete(DeviceDeleteArgs),
    /// Hand over all that this device holds, and take nothing more; `device on` takes that back
    Leave,
    /// Do something for others again
    On,
    /// Do nothing for others; what this device holds it keeps
    Off,
}

/// Arguments of `device set`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct DeviceSetArgs {
    /// Space for others, such as 10GB; with less than is in use, what is too much is handed over
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub space: Option<u64>,
    /// Folder of what is held: empty, new, or one where it lay before
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// Move what is held to the new folder
    #[arg(long = "move", requires = "dir")]
    pub move_shards: bool,
    /// Most that others get, such as 2MB/s, or 'unlimited'
    #[arg(long, value_name = "RATE", value_parser = upload)]
    pub upload: Option<u64>,
    /// When to do something for others, in local time, such as 22:00-06:00, or 'always'
    #[arg(long, value_parser = hours)]
    pub hours: Option<String>,
    /// On a metered link: pause (now, by hand), allow, or auto (pause when it is noticed)
    #[arg(long, value_name = "WHEN", value_parser = when())]
    pub metered: Option<When>,
    /// On battery: pause (now, by hand), allow, or auto (pause when it is noticed)
    #[arg(long, value_name = "WHEN", value_parser = when())]
    pub battery: Option<When>,
}

/// Arguments of `device delete`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DeviceDeleteArgs {
    /// The address, as `device shards` lists it
    pub address: Option<ContentAddress>,
    /// Everything that has ended
    #[arg(long)]
    pub expired: bool,
}

/// The rate as the API takes it: 0 is without limit.
fn upload(text: &str) -> Result<u64, device::ValueError> {
    device::rate(text).map(Option::unwrap_or_default)
}

/// Hours in the form in which the file has them.
fn hours(text: &str) -> Result<String, device::ValueError> {
    device::hours(text).map(|hours| hours.map_or_else(|| "always".to_owned(), |hours| hours.to_string()))
}

fn when() -> impl TypedValueParser<Value = When> {
    PossibleValuesParser::new(["pause", "allow", "auto"]).map(|text| match text.as_str() {
        "pause" => When::Pause,
        "allow" => When::Allow,
        _ => When::Auto,
    })
}
