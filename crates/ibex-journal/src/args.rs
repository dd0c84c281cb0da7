//! The command line: daemons of the kit (`serve`, `worker`) and commands that do one thing and end.
//!
//! Apart because it is what operators type; docs/journal/operating.md lists it. It does nothing by itself.

use ibex_kit::{CommonArgs, DaemonArgs};
use std::path::PathBuf;

/// Flags of `serve` and `worker`.
#[derive(clap::Parser, Debug, Clone)]
pub struct Args {
    /// What to be: the web site or a worker.
    #[arg(value_name = "ROLE", default_value = "serve")]
    pub role: Role,
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The web site.
    Serve,
    /// Gearman functions and the job queue.
    Worker,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
    fn settings(&self) -> Vec<(String, toml::Value)> {
        Vec::new()
    }
}

/// Commands that do one thing and end.
#[derive(clap::Parser, Debug, Clone)]
#[command(
    name = "ibex-journal",
    about = "The journal's commands; `serve` and `worker` are its daemons.",
    version
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every daemon; --config and --set count here too.
    #[command(flatten)]
    pub common: Global,
}

/// Where the configuration is.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Global {
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any configuration key by its path; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Log filter.
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn")]
    pub log_level: String,
}

/// See [`Cli`].
#[derive(clap::Subcommand, Debug, Clone)]
pub enum Command {
    /// Make or update every schema.
    Migrate,
    /// Fill the site with deterministic people and entries.
    SeedDemo {
        /// People.
        #[arg(long, default_value_t = 200)]
        users: u32,
        /// Entries.
        #[arg(long, default_value_t = 3000)]
        entries: u32,
        /// Same seed, same site.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Password of every account made.
        #[arg(long, default_value = "ibex-demo")]
        password: String,
        /// Userpics made and stored; the rest of the people have none.
        #[arg(long, default_value_t = 60)]
        pictures: u32,
    },
    /// Move a user to another cluster while the site runs.
    MoveUser {
        /// Who.
        name: Option<String>,
        /// Where to.
        cluster: Option<u32>,
        /// Compare every row before the pivot, and not sums only.
        #[arg(long)]
        verify_full: bool,
        /// Delete the rows at the old home at once.
        #[arg(long)]
        delete: bool,
        /// Rows copied per second, at most.
        #[arg(long, default_value_t = 0)]
        rate: u32,
        /// Finish or undo what dead movers left, and end.
        #[arg(long, conflicts_with_all = ["name", "cluster"])]
        resume: bool,
        /// Die after this step, for tests (debug builds).
        #[arg(long, value_name = "STEP")]
        die_at: Option<String>,
    },
    /// Look after accounts and databases.
    Admin {
        /// What to do.
        #[command(subcommand)]
        command: Admin,
    },
    /// Receive mail and write each to a file, for demonstrations and tests.
    SmtpSink {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:2525")]
        listen: String,
        /// Directory of the mails.
        #[arg(long)]
        dir: PathBuf,
    },
}

/// See [`Command::Admin`].
#[derive(clap::Subcommand, Debug, Clone)]
pub enum Admin {
    /// Make an account.
    UserAdd {
        /// Name.
        name: String,
        /// Password.
        #[arg(long)]
        password: String,
        /// E-mail address.
        #[arg(long, default_value = "")]
        email: String,
        /// On this cluster.
        #[arg(long)]
        cluster: Option<u32>,
    },
    /// Say on which cluster a user lives: its number alone on the last line.
    UserWhere {
        /// Name.
        name: String,
    },
    /// Make a community with open membership; its owner becomes member and administrator.
    CommunityAdd {
        /// Name.
        name: String,
        /// An existing account.
        #[arg(long)]
        owner: String,
    },
    /// Make an API key: the key alone on the last line.
    ApikeyAdd {
        /// Name of the account.
        name: String,
    },
    /// List clusters with their users.
    ClusterList,
    /// List moves, newest first.
    Moves,
    /// Check the consistency of one user.
    Check {
        /// Name.
        name: String,
    },
    /// Make the index of update times anew.
    RebuildUsage,
}
