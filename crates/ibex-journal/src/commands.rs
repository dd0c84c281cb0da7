//! Commands that do one thing and end: schemas, moves, accounts. They work against the configured databases, also while the site runs.
//!
//! Apart from the daemons. Answers go to standard output, errors to standard error; exit 0 or 1, 64 and 78 as the daemons'.

use crate::app::App;
use crate::args::{Admin, Args, Cli, Command, Role};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::user::{self, SignUp};
use crate::{circle, clock, entry, schema, seed, session, smtp_sink, visibility};
use ibex_cluster::{BoxFuture, ClusterId, MoveError, MoveOptions, Recovered, Step};
use ibex_kit::{CommonArgs, Failure};
use ibex_sql::{Tx, params};
use std::io::Write as _;
use std::process::ExitCode;

/// Deadline of a command's call to a database.
const PATIENCE: ibex_kit::Duration = ibex_kit::Duration::from_secs(300);

/// Runs a command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let outcome = if let Command::SmtpSink { listen, dir } = &cli.command {
        in_runtime(smtp_sink::run(listen, dir))
    } else {
        configured(cli)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(End::Failure(failure)) => {
            complain(&failure.to_string());
            failure.exit_code()
        }
        Err(End::Error(error)) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

enum End {
    Failure(Failure),
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn complain(text: &str) {
    // If standard error is gone there is nobody to tell.
    let _told = writeln!(std::io::stderr(), "ibex-journal: {text}").is_ok();
}

/// A line of the answer; a closed pipe is the reader's choice.
pub(crate) fn say(text: &str) {
    let _told = writeln!(std::io::stdout(), "{text}").is_ok();
}

fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T, End> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| End::Failure(Failure::io(format!("runtime: {error}"))))?;
    runtime.block_on(work).map_err(End::Error)
}

fn configured(cli: Cli) -> Result<(), End> {
    let common = CommonArgs {
        config: cli.common.config,
        set: cli.common.set,
        log_level: Some(cli.common.log_level),
        ..CommonArgs::default()
    };
    let args = Args {
        role: Role::Serve,
        common,
    };
    let mut config: Config =
        ibex_kit::load::<Args, Config>(&crate::ABOUT, &args).map_err(End::Failure)?;
    // Nobody waits for a page here, and one journal's whole content is one transaction.
    config.db.call_timeout = config.db.call_timeout.max(PATIENCE);
    in_runtime(async move {
        let app = App::open(config).await?;
        execute(&app, cli.command).await
    })
}

async fn execute(app: &App, command: Command) -> Result<()> {
    match command {
        Command::Migrate => migrate(app).await,
        Command::SeedDemo {
            users,
            entries,
            seed,
            password,
            pictures,
        } => {
            seed::run(
                app,
                seed::Plan {
                    users,
                    entries,
                    seed,
                    password,
                    pictures,
                },
            )
            .await
        }
        Command::MoveUser { resume: true, .. } => resume(app).await,
        Command::MoveUser {
            name: Some(name),
            cluster: Some(cluster),
            verify_full,
            delete,
            rate,
            die_at,
            ..
        } => {
            let die_at = match die_at.as_deref().map(|step| (step, Step::parse(step))) {
                None => None,
                Some((_, Some(step))) if cfg!(debug_assertions) => Some(step),
                Some((_, Some(_))) => return Err(Error::invalid("--die-at is for debug builds")),
                Some((step, None)) => {
                    return Err(Error::Invalid(format!("--die-at: no step {step:?}")));
                }
            };
            move_user(
                app,
                &name,
                ClusterId(cluster),
                MoveOptions {
                    verify_full,
                    delete,
                    rate,
                    die_at,
                    ..MoveOptions::default()
                },
            )
            .await
        }
        Command::MoveUser { .. } => Err(Error::invalid("move-user NAME CLUSTER, or --resume")),
        Command::Admin { command } => admin(app, command).await,
        Command::SmtpSink { .. } => Ok(()),
    }
}

async fn migrate(app: &App) -> Result<()> {
    if let Some((cluster, error)) = app.cluster.open_all().await.into_iter().next() {
        return Err(Error::Invalid(format!("cluster {cluster}: {error}")));
    }
    // The queue's tables are made when it is first asked.
    app.queue
        .client()
        .counts()
        .await
        .map_err(|error| Error::Jobs(error.to_string()))?;
    say("every schema is up to date");
    Ok(())
}

async fn move_user(app: &App, name: &str, to: ClusterId, options: MoveOptions) -> Result<()> {
    let who = user::by_name(app, name).await?;
    let report = match app.cluster.move_user(who.id, to, options).await {
        Ok(report) => report,
        Err(MoveError::Died(step)) => {
            complain(&format!("died after step {} as asked", step.name()));
            std::process::abort();
        }
        Err(error) => return Err(error.into()),
    };
    say(&format!(
        "moved {} from cluster {} to cluster {}: {} rows, {} changes meanwhile, {:.0?} in all, writes held for {:.0?}",
        who.name,
        report.src,
        report.dst,
        report.rows,
        report.changes,
        report.elapsed,
        report.locked
    ));
    Ok(())
}

/// Moves whose lease ran out. One that was killed a moment ago is waited for.
async fn resume(app: &App) -> Result<()> {
    let recovered = app.cluster.recover(clock::now()).await?;
    for one in &recovered {
        match one {
            Recovered::Finished(row) => say(&format!(
                "move {} of user {} finished: cluster {}",
                row.moveid, row.user, row.dst
            )),
            Recovered::Undone(row) => say(&format!(
                "move {} of user {} undone: cluster {}",
                row.moveid, row.user, row.src
            )),
        }
    }
    let open = app
        .cluster
        .moves(1000)
        .await?
        .into_iter()
        .filter(|row| matches!(row.state.as_str(), "copying" | "locked" | "pivoted"));
    for row in open {
        say(&format!(
            "move {} of user {} is under way until its lease ends in {} s",
            row.moveid,
            row.user,
            row.lease_until - clock::now()
        ));
    }
    Ok(())
}

async fn admin(app: &App, command: Admin) -> Result<()> {
    match command {
        Admin::UserAdd {
            name,
            password,
            email,
            cluster,
        } => {
            let made = user::sign_up(
                app,
                SignUp {
                    name,
                    password,
                    email,
                    cluster: cluster.map(ClusterId),
                    ..SignUp::default()
                },
            )
            .await?;
            let home = app.cluster.home(made.id).await?;
            say(&format!(
                "made {} as user {} on cluster {}",
                made.name, made.id, home.cluster
            ));
        }
        Admin::UserWhere { name } => {
            let who = user::by_name(app, &name).await?;
            say(&app.cluster.home(who.id).await?.cluster.to_string());
        }
        Admin::CommunityAdd { name, owner } => {
            let owner = user::by_name(app, &owner).await?;
            let made = user::sign_up(
                app,
                SignUp {
                    name,
                    is_community: true,
                    ..SignUp::default()
                },
            )
            .await?;
            circle::add(app, &owner, &made).await?;
            circle::make_administrator(app, made.id, owner.id).await?;
            say(&format!(
                "made community {} with administrator {}",
                made.name, owner.name
            ));
        }
        Admin::ApikeyAdd { name } => {
            let who = user::by_name(app, &name).await?;
            say(&session::make_key(app, who.id, "made by the operator").await?);
        }
        Admin::ClusterList => {
            for load in app.cluster.loads().await? {
                let state = if load.readonly { "read-only" } else { "open" };
                say(&format!(
                    "cluster {}: {} users, weight {}, {state}",
                    load.cluster, load.users, load.weight
                ));
            }
        }
        Admin::Moves => {
            for row in app.cluster.moves(50).await? {
                say(&format!(
                    "move {}: user {} from {} to {}, {} {}",
                    row.moveid, row.user, row.src, row.dst, row.state, row.error
                ));
            }
        }
        Admin::Check { name } => check(app, &name).await?,
        Admin::RebuildUsage => rebuild_usage(app).await?,
    }
    Ok(())
}

/// What must hold for one user: counters not below their numbers, reply counts right, no rows of his on other clusters.
async fn check(app: &App, name: &str) -> Result<()> {
    let who = user::by_name(app, name).await?;
    let home = app.cluster.home(who.id).await?.cluster;
    let mut problems = Vec::new();
    for at in app.cluster.ids() {
        let db = app.cluster.db(at).await?;
        let owner = db
            .query_one("SELECT state FROM owner WHERE userid = ?", params![who.id])
            .await?;
        let state: Option<String> = owner.map(|row| row.get(0)).transpose()?;
        match (at == home, state.as_deref()) {
            (true, Some("L")) | (false, Some("X")) => {}
            (true, state) => problems.push(format!("owner row on his cluster {at} says {state:?}")),
            (false, Some(state)) => {
                problems.push(format!("owner row on cluster {at} says {state:?}"))
            }
            (false, None) => {
                for table in schema::LAYOUT.tables {
                    let sql = format!(
                        "SELECT COUNT(*) FROM {} WHERE {} = ?",
                        table.name, table.user
                    );
                    let rows: i64 = db
                        .query_one(sql, params![who.id])
                        .await?
                        .map(|row| row.get(0))
                        .transpose()?
                        .unwrap_or(0);
                    if rows > 0 {
                        problems.push(format!("{rows} rows of {} on cluster {at}", table.name));
                    }
                }
            }
        }
    }
    problems.extend(check_home(app, &who).await?);
    for problem in &problems {
        say(problem);
    }
    if problems.is_empty() {
        say(&format!("{} is consistent on cluster {home}", who.name));
        Ok(())
    } else {
        Err(Error::Invalid(format!("{} problems", problems.len())))
    }
}

async fn check_home(app: &App, who: &user::User) -> Result<Vec<String>> {
    let id = who.id;
    app.cluster
        .read(id, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<String>>> {
            Box::pin(async move {
                let mut problems = Vec::new();
                for counter in schema::LAYOUT.counters {
                    let row = tx.query_one("SELECT max FROM usercounter WHERE userid = ? AND area = ?", params![id, counter.area.to_string()]).await?;
                    let max: i64 = row.map(|row| row.get(0)).transpose()?.unwrap_or(0);
                    for source in counter.sources {
                        let sql = format!("SELECT MAX({}) FROM {} WHERE {} = ?", source.column, source.table, source.user);
                        let seen: i64 = tx.query_one(sql, params![id]).await?.map(|row| row.get::<Option<i64>>(0)).transpose()?.flatten().unwrap_or(0);
                        if seen > max {
                            problems.push(format!("counter {} is {max}, {}.{} has {seen}", counter.area, source.table, source.column));
                        }
                    }
                }
                let sql = "SELECT jitemid, replycount, (SELECT COUNT(*) FROM talk WHERE talk.journalid = log.journalid AND talk.jitemid = log.jitemid \
                AND state IN ('A', 'F'))
                           FROM log WHERE journalid = ?";
                for row in tx.query(sql, params![id]).await? {
                    let (item, count, counted) = (row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?);
                    if count != counted {
                        problems.push(format!("entry {item} says {count} comments and has {counted}"));
                    }
                }
                Ok(problems)
            })
        })
        .await
}

async fn rebuild_usage(app: &App) -> Result<()> {
    let (mut after, mut count) = (0, 0);
    loop {
        let users = user::page(app, after, 200).await?;
        let Some(last) = users.last() else { break };
        after = last.id.0;
        let ids: Vec<_> = users.iter().map(|user| user.id).collect();
        let (recent, is_partial) = entry::recent(app, &ids).await?;
        if is_partial {
            return Err(Error::invalid(
                "a cluster does not answer; try again when all do",
            ));
        }
        for (journal, rows) in recent {
            for row in rows {
                app.usage.note(
                    journal,
                    row.logtime,
                    row.security == visibility::Security::Public,
                );
            }
        }
        count += crate::usage::flush(app).await?;
    }
    say(&format!("update times of {count} journals are made anew"));
    Ok(())
}
