//! What the demo tells the person who started it: where the site is, whom to log in as, what to look at, where the status pages are.

use anyhow::{Context, Result};

use super::stack::Stack;

/// Password of everybody the seeder makes, so that a person can be anyone.
pub(crate) const PASSWORD: &str = "ibex-demo";
/// File in the state folder with the name of one of them.
const RESIDENT: &str = "resident";

/// Somebody who lives on the site since it was filled, as the seeder said then.
fn resident(stack: &Stack) -> Result<String> {
    let kept = stack.dir().join(RESIDENT);
    std::fs::read_to_string(&kept).with_context(|| {
        format!(
            "read {}; the site was filled by another program",
            kept.display()
        )
    })
}

/// Keeps the name that the seeder's words tell, if they tell one.
pub(crate) fn keep_resident(stack: &Stack, words: &str) -> Result<()> {
    let Some((_, rest)) = words.split_once("log in as ") else {
        return Ok(());
    };
    let name: String = rest
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        .collect();
    std::fs::write(stack.dir().join(RESIDENT), name).context("keep the resident's name")
}

/// Writes the file by which the operator's tool finds every daemon of this demo.
fn write_family(stack: &Stack) -> Result<std::path::PathBuf> {
    let mut text = String::new();
    for process in stack.all() {
        if let Some(admin) = process.admin() {
            text.push_str(&format!(
                "[[daemon]]\nname = \"{}\"\nadmin = \"{admin}\"\n\n",
                process.spec.name
            ));
        }
    }
    let path = stack.dir().join("etc/family.toml");
    std::fs::write(&path, text).context("write the family's addresses")?;
    Ok(path)
}

/// Prints the tour.
pub(crate) fn print(stack: &Stack) -> Result<()> {
    let site = stack.layout.site_url()?;
    let manage = stack.addr("perlbal1-manage")?;
    let resident = resident(stack)?;
    let family = write_family(stack)?;
    let tool = stack.layout.tool().display().to_string();
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
    let mover = stack.layout.journal(&["move-user", &resident, "2"]);
    let words = std::iter::once(mover.get_program()).chain(mover.get_args());
    let mover = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!(
        "\nAll of them:      {tool} --family {} status",
        family.display()
    );
    eprintln!(
        "Balancer console: {tool} balance --manage {manage} show service site   (queues, states, socks …)"
    );
    eprintln!("Move a user:      {mover}");
    eprintln!("Logs:             {}", stack.dir().join("log").display());
    eprintln!(
        "\nCtrl-C stops everything; started again with the same folder, it goes on from here."
    );
    Ok(())
}
