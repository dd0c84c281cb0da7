//! What the demo tells the person who started it: where the site is, whom to log in as, what to look at, where the status pages are.

use anyhow::Result;

use super::stack::Stack;

/// The account made for the person at the keyboard.
pub(crate) const VISITOR: &str = "visitor";
pub(crate) const PASSWORD: &str = "a-walk-on-the-ridge";

/// Prints the tour.
pub(crate) fn print(stack: &Stack) -> Result<()> {
    let site = stack.layout.site_url()?;
    let manage = stack.addr("perlbal1-manage")?;
    eprintln!(
        "
The site:  {site}/          log in at {site}/login as {VISITOR}, password {PASSWORD}

A short tour
  1. {site}/latest  what people write
  2. log in, write an entry for friends only ({site}/update), open it in a window that is not logged in
  3. {site}/users/{VISITOR}/read  your friends page, gathered from both clusters
  4. upload a picture ({site}/manage/icons); it is stored twice and comes through the balancer
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
    let mut mover = stack.layout.journal(&["move-user", VISITOR, "2"]);
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
