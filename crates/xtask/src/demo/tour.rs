//! What the demo tells the person who started it: where the site is, whom to log in as, what to look at, where the status pages are.

use anyhow::{Context, Result};

use super::browser::Browser;
use super::stack::Stack;

/// Password of everybody the seeder makes, so that a person can be anyone.
pub(crate) const PASSWORD: &str = "ibex-demo";

/// Somebody who lives on the site since it was filled, the same one at every start.
fn resident(stack: &Stack) -> Result<String> {
    let kept = stack.dir().join("resident");
    if let Ok(name) = std::fs::read_to_string(&kept) {
        return Ok(name);
    }
    let latest = Browser::new(stack.addr("perlbal1")?).open("/latest")?;
    let names = latest
        .links()
        .into_iter()
        .filter_map(|link| Some(link.strip_prefix("/users/")?.split('/').next()?.to_owned()));
    let name = names
        .into_iter()
        .next()
        .context("nobody has written anything yet")?;
    std::fs::write(&kept, &name)?;
    Ok(name)
}

/// Prints the tour.
pub(crate) fn print(stack: &Stack) -> Result<()> {
    let site = stack.layout.site_url()?;
    let manage = stack.addr("perlbal1-manage")?;
    let resident = resident(stack)?;
    eprintln!(
        "
The site:  {site}/          log in at {site}/login as {resident}, password {PASSWORD}

A short tour
  1. {site}/latest  what people write
  2. log in, write an entry for friends only ({site}/update), open it in a window that is not logged in
  3. {site}/users/{resident}/read  your friends page, gathered from both clusters
  4. upload a picture ({site}/manage/photos); it is stored twice and comes through the balancer
  5. comment on somebody's entry and look into {mail}
  6. move yourself between clusters while you click: see below
  7. kill -9 any process of the list above; it is started again, nothing is lost
",
        mail = stack.mail_dir().display(),
    );
    eprintln!("Status pages");
    for process in stack.all() {
        if let Some(admin) = process.admin() {
            eprintln!("  {:<12} http://{admin}/", process.spec.name);
        }
    }
    let mut mover = stack.layout.journal(&["move-user", &resident, "2"]);
    let mover = crate::sh::shown(mover.current_dir(stack.dir()));
    eprintln!(
        "\nBalancer console: nc {} {}   (show service site, queues, states)",
        manage.ip(),
        manage.port()
    );
    eprintln!("Move a user:      {mover}");
    eprintln!("Logs:             {}", stack.dir().join("log").display());
    eprintln!(
        "\nCtrl-C stops everything; started again with the same folder, it goes on from here."
    );
    Ok(())
}
