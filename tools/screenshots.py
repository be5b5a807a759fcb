#!/usr/bin/env python3
"""Make the pictures of the page: a real service, real jobs, a real browser.

    python tools/screenshots.py [docs]

Needs the extra `browser` and Debian's chromium. The commands are stand-ins that only print, wait and exit.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.async_api import async_playwright
from tests.support.service import Service

SIZE = {"width": 1280, "height": 760}

# A build as one sees it every day: colours, a progress bar, warnings on stderr.
BUILD = r"""say() { printf "$@"; sleep 0.08; }
say '\033[1mСборка магазина 4.2\033[0m\n'
for part in cart catalog checkout search; do
    say "\033[32m✓\033[0m $part \033[90m(0.$((${#part} * 7)) s)\033[0m\n"
done
echo 'warning: cart.py:118: discount() is deprecated' >&2; sleep 0.08
for done in 8 25 50 75 92 100; do say '\r\033[36mtests\033[0m  %3d %%' $done; done; echo
say 'unit      212 passed\napi        64 passed\n'
echo 'E   checkout: expected 200, got 503 Service Unavailable' >&2; sleep 0.08
say '\033[41;97m FAIL \033[0m checkout: 1 of 31 tests\n'
exit 1"""

# Commands, what stands in for each, and the labels of their jobs.
DAILY = [
    ("pg_dump --format=custom --file=/backup/shop.dump shop", "sleep 0.61", {"team": "data"}),
    ("rsync -a --delete /srv/www/ backup:/srv/www/", "sleep 1.1", {"host": "web1"}),
    ("curl -fsS https://status.example.org/health", "sleep 0.05", {}),
    ("certbot renew --quiet", "sleep 0.3", {}),
    ("ruff check shop", "sleep 0.18; exit 2", {"team": "web"}),
    ("logrotate /etc/logrotate.conf", "sleep 0.09", {}),
    ("manage.py migrate --noinput", "sleep 0.42", {"team": "web"}),
    ("отчёт --за месяц", "sleep 0.75", {"team": "data"}),
]
MAKE = ("make -C shop test", BUILD, {"team": "web", "branch": "main"})
IMPORT = ("import-prices --part 1", "sleep 1000", {})
TAIL = ("journalctl --follow --unit shop", "sleep 1000", {"host": "web1"})


def stand_in(folder: Path) -> None:
    """Put a script for each command where jobs look for it first."""
    for command, script, _ in (*DAILY, MAKE, IMPORT, TAIL):
        place = folder / command.split()[0]
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)


async def fill(service: Service) -> int:
    """Run the jobs that are to be seen; returns the build."""
    past = [
        await service.submit(command, labels=labels) for turn in range(6) for command, _, labels in DAILY[turn % 3 :]
    ]
    past.append(await service.submit("kill -SEGV $$", labels={"host": "web1"}))
    past.append(await service.submit("sleep 60", timeout=0.5))
    build = await service.submit(MAKE[0], labels=MAKE[2])
    for job in [*past, build]:
        await service.result(job, 60)
    for number in range(1, 4):
        await service.submit(IMPORT[0].replace("1", str(number)), queue="imports")
    await service.running(await service.submit(TAIL[0], labels=TAIL[2]))
    return build


async def picture(folder: Path, chromium: str) -> None:
    """Make both."""
    with tempfile.TemporaryDirectory() as work:
        commands = Path(work) / "bin"
        commands.mkdir()
        stand_in(commands)
        service = Service(Path(work) / "state")
        environment = json.dumps({"PATH": f"{commands}:/usr/bin:/bin"})
        queues = json.dumps({"imports": {"max_running": 1}})
        await service.start(SUPERVISOR__MAX_RUNNING=6, QUEUES=queues, JOBS__ENVIRONMENT=environment)
        try:
            build = await fill(service)
            await shoot(service.url, build, folder, chromium)
        finally:
            await service.clear_away()


async def shoot(url: str, build: int, folder: Path, chromium: str) -> None:
    """One light, of the list; one dark, of a job."""
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        for name, scheme, place in (("list", "light", ""), ("job", "dark", f"#job={build}")):
            page = await browser.new_page(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.5)
            await page.goto(f"{url}/{place}")
            await page.wait_for_selector('#connection[data-state="live"]')
            await page.wait_for_selector("#recent li")
            if place:
                await page.wait_for_selector('#job-connection[data-state="ended"]')
                await page.wait_for_function("document.querySelector('.xterm-rows').innerText.includes('FAIL')")
            await page.wait_for_timeout(500)  # two frames and the ticking clock, so that nothing is half drawn
            await page.screenshot(path=folder / f"page-{name}.png")
        await browser.close()


def main() -> None:
    """Read the words, find the browser, make the pictures."""
    parser = argparse.ArgumentParser(description="makes the README's pictures of the page")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "docs")
    folder = parser.parse_args().folder
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no chromium here: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(picture(folder, chromium))


if __name__ == "__main__":
    main()
