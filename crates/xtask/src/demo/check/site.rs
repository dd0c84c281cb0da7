//! The site as three people see it through the balancer: Anna, who writes; Ben, whom she trusts; Cleo, a stranger. Every acknowledged thing is remembered,
//! so that after the faults all of it can be asked for again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ibex_testkit::{http, wait};

use super::super::browser::{Browser, File, Page};
use super::super::picture;
use super::super::stack::Stack;
use super::Walk;

/// A mail must arrive within this time: the worker is woken, not polled.
const MAIL_PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct-horse-battery";

/// One person with a browser of her own.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) browser: Browser,
}

/// What the site has acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) anna: Person,
    pub(super) ben: Person,
    pub(super) cleo: Person,
    /// Address and words of entries everybody may read.
    pub(super) public: Vec<(String, String)>,
    /// Address and words of the entry for friends.
    pub(super) friends: (String, String),
    /// Address of the friends-only picture, and its first answer.
    pub(super) picture: Option<(String, Vec<u8>)>,
    /// Words of a comment under the first public entry.
    pub(super) comments: Vec<String>,
}

impl Person {
    /// Makes an account through the form.
    fn sign_up(site: SocketAddr, name: &str) -> Result<Self> {
        let mut browser = Browser::new(site);
        let form = browser
            .open("/create")?
            .form_to("/create")?
            .fill("user", name)
            .fill("password", PASSWORD);
        browser.submit(&form.fill("email", &format!("{name}@example.org")))?;
        Ok(Self {
            name: name.to_owned(),
            browser,
        })
    }

    /// Logs in through the form, with an empty cookie jar.
    fn log_in(site: SocketAddr, name: &str) -> Result<Self> {
        let mut browser = Browser::new(site);
        let form = browser.open("/login")?.form_to("/login")?;
        browser.submit(&form.fill("user", name).fill("password", PASSWORD))?;
        let home = browser.open("/")?;
        ensure!(home.has(name), "the front page does not greet {name}");
        Ok(Self {
            name: name.to_owned(),
            browser,
        })
    }

    /// Writes an entry; the answer is its address.
    pub(super) fn post(&mut self, subject: &str, body: &str, security: &str) -> Result<String> {
        let form = self.browser.open("/update")?.form_with("subject")?;
        ensure!(
            form.choices("security").contains(&security),
            "the form offers {:?} only",
            form.choices("security")
        );
        let page = self.browser.submit(
            &form
                .fill("subject", subject)
                .fill("event", body)
                .fill("security", security),
        )?;
        if is_entry(&page.path) {
            return Ok(page.path);
        }
        let prefix = format!("/users/{}/", self.name);
        page.links()
            .into_iter()
            .find(|link| link.starts_with(&prefix) && is_entry(link))
            .with_context(|| format!("{}: no link to the new entry", page.path))
    }

    /// Comments on an entry.
    pub(super) fn comment(&mut self, entry: &str, body: &str) -> Result<()> {
        let page = self.browser.open(&format!("{entry}?replyto=0"))?;
        let form = page.form_to("/reply")?;
        let page = self.browser.submit(&form.fill("body", body))?;
        ensure!(
            page.has(body),
            "the page does not show the comment that was just made"
        );
        Ok(())
    }

    /// Adds a friend.
    fn befriend(&mut self, other: &str) -> Result<()> {
        let page = self.browser.open(&format!("/users/{other}/profile"))?;
        let form = page.form_to("/manage/circle")?;
        self.browser.submit(&form)?;
        Ok(())
    }
}

fn is_entry(path: &str) -> bool {
    path.split(['?', '#'])
        .next()
        .is_some_and(|path| path.starts_with("/users/") && path.ends_with(".html"))
}

fn site(stack: &Stack) -> Result<SocketAddr> {
    stack.addr("perlbal1")
}

/// Walks everything a visitor can do and answers what was acknowledged.
pub(super) fn walk(walk: &mut Walk<'_>) -> Result<Seen> {
    walk.step("the site's front page through the balancer", |stack, _| {
        let page = Browser::new(site(stack)?).open("/")?;
        let latest = Browser::new(site(stack)?).open("/latest")?;
        Ok(format!(
            "{} bytes, {} links; /latest with {} links",
            page.response.body.len(),
            page.links().len(),
            latest.links().len()
        ))
    })?;
    let mut people = None;
    walk.step("three people sign up and log in again", |stack, run| {
        let site = site(stack)?;
        let names = [
            format!("anna_{run}"),
            format!("ben_{run}"),
            format!("cleo_{run}"),
        ];
        for name in &names {
            Person::sign_up(site, name)?;
        }
        let [anna, ben, cleo] = names.map(|name| Person::log_in(site, &name));
        people = Some((anna?, ben?, cleo?));
        Ok("each is greeted by name".to_owned())
    })?;
    let (anna, ben, cleo) = people.context("people signed up")?;
    let mut seen = Seen {
        anna,
        ben,
        cleo,
        public: Vec::new(),
        friends: (String::new(), String::new()),
        picture: None,
        comments: Vec::new(),
    };
    let them = &mut seen;
    walk.step("Anna writes for everybody", |stack, run| {
        write_public(stack, run, them)
    })?;
    walk.step("Anna and Ben become friends", |_, _| {
        let (anna, ben) = (them.anna.name.clone(), them.ben.name.clone());
        them.anna.befriend(&ben)?;
        them.ben.befriend(&anna)?;
        Ok("both ways".to_owned())
    })?;
    walk.step("Anna writes for friends only", |_, run| {
        write_friends(run, them)
    })?;
    walk.step("Ben's friends page", |_, _| friends_page(them))?;
    walk.step("Ben comments, and Anna gets a mail", |stack, run| {
        comment_and_mail(stack, run, them)
    })?;
    walk.step("Anna's userpic and a picture for friends", |stack, _| {
        pictures(stack, them)
    })?;
    walk.step("feeds, Atom and RSS", |stack, _| feeds(stack, them))?;
    walk.step(
        "Anna moves between clusters while Cleo reads",
        |stack, run| move_while_reading(stack, run, them),
    )?;
    Ok(seen)
}

fn write_public(stack: &Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let words = format!("Snow on the upper pass, walk {run}");
    let entry = seen.anna.post(
        &words,
        "The ibexes came down to the <b>meadow</b> this morning.",
        "public",
    )?;
    let page = Browser::new(site(stack)?).open(&entry)?;
    ensure!(page.has(&words), "a visitor does not see {entry}");
    seen.public.push((entry.clone(), words));
    Ok(format!("{entry} is read by a visitor"))
}

fn write_friends(run: &str, seen: &mut Seen) -> Result<String> {
    let words = format!("Where the spring is, walk {run}");
    let entry = seen.anna.post(&words, "Only you shall know.", "friends")?;
    seen.friends = (entry, words);
    let (friend, stranger) = friends_only(seen)?;
    Ok(format!("Ben gets {friend}, Cleo {stranger}"))
}

/// Ben sees the entry for friends, Cleo and a visitor do not.
pub(super) fn friends_only(seen: &mut Seen) -> Result<(u16, u16)> {
    let (entry, words) = seen.friends.clone();
    let friend = seen.ben.browser.open(&entry)?;
    ensure!(friend.has(&words), "Ben does not see {entry}");
    let stranger = seen.cleo.browser.get(&entry)?;
    ensure!(
        matches!(stranger.response.status, 403 | 404) && !stranger.has(&words),
        "Cleo gets {} for {entry}",
        stranger.response.status
    );
    Ok((friend.response.status, stranger.response.status))
}

fn friends_page(seen: &mut Seen) -> Result<String> {
    let path = format!("/users/{}/read", seen.ben.name);
    let page = seen.ben.browser.open(&path)?;
    let public = &seen.public.first().context("something was written")?.1;
    ensure!(
        page.has(public) && page.has(&seen.friends.1),
        "{path} lacks Anna's entries"
    );
    let visitor = seen.cleo.browser.get(&path)?;
    ensure!(
        !visitor.has(&seen.friends.1),
        "Cleo sees an entry for friends on {path}"
    );
    Ok("both of Anna's entries, and Cleo sees none for friends there".to_owned())
}

fn comment_and_mail(stack: &Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let (entry, _) = seen
        .public
        .first()
        .cloned()
        .context("something was written")?;
    let words = format!("I saw their tracks, walk {run}");
    seen.ben.comment(&entry, &words)?;
    seen.comments.push(words.clone());
    let file = wait_mail(&stack.mail_dir(), &seen.anna.name, &words)?;
    Ok(format!("{file} holds the comment"))
}

/// Waits for a mail to `name` that contains `words`.
pub(super) fn wait_mail(dir: &Path, name: &str, words: &str) -> Result<String> {
    wait::until(
        MAIL_PATIENCE,
        &format!("a mail to {name} with {words:?}"),
        || {
            let entries = std::fs::read_dir(dir).ok()?;
            entries.flatten().find_map(|entry| {
                let text = plain(&std::fs::read_to_string(entry.path()).ok()?);
                (text.contains(&format!("{name}@example.org")) && text.contains(&plain(words)))
                    .then(|| entry.file_name().to_string_lossy().into_owned())
            })
        },
    )
}

/// A mail's text without the soft line breaks of quoted-printable and with single spaces.
fn plain(text: &str) -> String {
    text.replace("=\r\n", "")
        .replace("=\n", "")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn pictures(stack: &Stack, seen: &mut Seen) -> Result<String> {
    let png = picture::png(96, 96, 40);
    let page = seen.anna.browser.open("/manage/icons")?;
    let form = page.form_with("file")?.choose(
        "file",
        File {
            name: "ibex.png".to_owned(),
            content_type: "image/png",
            bytes: png,
        },
    );
    let page = seen.anna.browser.submit(&form)?;
    let icon = page
        .links()
        .into_iter()
        .find(|link| link.starts_with("/userpic/"))
        .context("the new userpic is not shown")?;
    let shown = Browser::new(site(stack)?).open(&icon)?;
    let kind = shown
        .response
        .header("content-type")
        .unwrap_or_default()
        .to_owned();
    ensure!(kind.starts_with("image/"), "{icon} is {kind:?}");
    let photo = friends_picture(stack, seen)?;
    Ok(format!(
        "{icon} {kind} {} bytes; {photo}",
        shown.response.body.len()
    ))
}

/// Uploads a picture for friends and remembers what Ben gets.
fn friends_picture(stack: &Stack, seen: &mut Seen) -> Result<String> {
    let page = seen.anna.browser.open("/manage/photos")?;
    let file = File {
        name: "spring.png".to_owned(),
        content_type: "image/png",
        bytes: picture::png(320, 240, 200),
    };
    let form = page
        .form_with("file")?
        .fill("security", "friends")
        .choose("file", file);
    let page = seen.anna.browser.submit(&form)?;
    let address = page
        .links()
        .into_iter()
        .find(|link| link.contains("/photo/"))
        .context("the new photo is not shown")?;
    let before = reproxied(stack)?;
    let friend = seen.ben.browser.open(&address)?;
    let count = reproxied(stack)? - before;
    ensure!(
        count >= 1.0,
        "{address} did not come from a storage node through the balancer"
    );
    ensure!(
        friend
            .response
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("image/")),
        "{address} is no picture"
    );
    seen.picture = Some((address, friend.response.body));
    let (friend, stranger) = check_picture(seen)?;
    Ok(format!(
        "photo for friends, from a storage node through the balancer: Ben {friend}, Cleo {stranger}"
    ))
}

/// Answers the balancer has fetched from storage nodes so far.
fn reproxied(stack: &Stack) -> Result<f64> {
    let balancer = stack
        .all()
        .iter()
        .find(|process| process.spec.name == "perlbal1")
        .context("a balancer runs")?;
    let text = http::get(
        balancer.admin().context("it has an admin port")?,
        "/metrics",
    )?
    .text();
    let samples = text
        .lines()
        .filter(|line| line.starts_with("ibex_perlbal_reproxied_total"));
    Ok(samples
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

/// Ben gets the friends-only picture, byte for byte as before; Cleo does not.
pub(super) fn check_picture(seen: &mut Seen) -> Result<(u16, u16)> {
    let (address, bytes) = seen.picture.clone().context("a picture was uploaded")?;
    let friend = seen.ben.browser.open(&address)?;
    ensure!(
        friend.response.body == bytes,
        "{address} is another picture now"
    );
    let stranger = seen.cleo.browser.get(&address)?;
    ensure!(
        matches!(stranger.response.status, 403 | 404),
        "Cleo gets {} for {address}",
        stranger.response.status
    );
    Ok((friend.response.status, stranger.response.status))
}

fn feeds(stack: &Stack, seen: &Seen) -> Result<String> {
    let mut sizes = Vec::new();
    for (kind, root) in [("atom", "<feed"), ("rss", "<rss")] {
        let page =
            Browser::new(site(stack)?).open(&format!("/users/{}/data/{kind}", seen.anna.name))?;
        let text = page.text();
        let public = &seen.public.first().context("something was written")?.1;
        ensure!(
            text.contains(root) && text.contains(public),
            "the {kind} feed lacks the entry: {text}"
        );
        ensure!(
            !text.contains(&seen.friends.1),
            "the {kind} feed shows an entry for friends to everybody"
        );
        sizes.push(format!("{kind} {} bytes", text.len()));
    }
    Ok(sizes.join(", "))
}

/// Someone who reads all the time; every page must be whole.
pub(super) struct Reader {
    is_over: Arc<AtomicBool>,
    pages: Arc<AtomicU32>,
    thread: JoinHandle<Result<()>>,
}

impl Reader {
    pub(super) fn start(person: &Person, address: &str, words: &str) -> Self {
        let (mut browser, address, words) =
            (person.browser.clone(), address.to_owned(), words.to_owned());
        let is_over = Arc::new(AtomicBool::new(false));
        let pages = Arc::new(AtomicU32::new(0));
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&pages));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let page: Page = browser.open(&address)?;
                ensure!(page.has(&words), "{address} came without its words");
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        Self {
            is_over,
            pages,
            thread,
        }
    }

    pub(super) fn stop(self) -> Result<u32> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the reader's thread panicked"))??;
        Ok(self.pages.load(Ordering::SeqCst))
    }
}

/// On which cluster a user lives.
fn cluster_of(stack: &Stack, name: &str) -> Result<String> {
    let out = crate::sh::output(&mut stack.layout.journal(&["admin", "user-where", name]))?;
    Ok(out.lines().last().unwrap_or_default().trim().to_owned())
}

fn move_while_reading(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let (entry, words) = seen
        .public
        .first()
        .cloned()
        .context("something was written")?;
    let before = cluster_of(stack, &seen.anna.name)?;
    let target = if before == "1" { "2" } else { "1" };
    let reader = Reader::start(&seen.cleo, &entry, &words);
    let mut mover: Command = stack
        .layout
        .journal(&["move-user", &seen.anna.name, target]);
    crate::sh::output(&mut mover)?;
    let during = reader.stop()?;
    let after = cluster_of(stack, &seen.anna.name)?;
    ensure!(
        after == target,
        "Anna is on cluster {after}, not on {target}"
    );
    let words = format!("Moved house, walk {run}");
    let entry = seen
        .anna
        .post(&words, "Same mountain, other slope.", "public")?;
    seen.public.push((entry, words));
    check_all(stack, seen)?;
    Ok(format!(
        "from {before} to {after}; {during} pages read meanwhile, all whole; she wrote again"
    ))
}

/// Everything that was acknowledged is there, for those who may see it.
pub(super) fn check_all(stack: &Stack, seen: &mut Seen) -> Result<()> {
    let mut visitor = Browser::new(site(stack)?);
    for (entry, words) in &seen.public {
        ensure!(visitor.open(entry)?.has(words), "{entry} lost its words");
    }
    let first = visitor.open(&seen.public.first().context("something was written")?.0)?;
    for words in &seen.comments {
        ensure!(first.has(words), "the comment {words:?} is lost");
    }
    friends_only(seen)?;
    if seen.picture.is_some() {
        check_picture(seen)?;
    }
    Ok(())
}
