"""Material of the ordinary instructions: lists of three, sentences in two tenses, and facts."""

LISTS = """
fruits | apples, bananas and oranges
colors of the rainbow | red, green and violet
farm animals | cows, pigs and sheep
days of the week | Monday, Thursday and Sunday
kinds of weather | rain, sun and wind
tools in a kitchen | a knife, a spoon and a pan
musical instruments | the piano, the violin and the drum
team sports | soccer, basketball and hockey
planets | Mars, Venus and Earth
vegetables | carrots, peas and onions
hot drinks | tea, coffee and cocoa
pets | dogs, cats and rabbits
items of clothing | shirts, socks and hats
school subjects | math, history and art
months with thirty days | April, June and September
trees | oak, pine and maple
flowers | roses, tulips and daisies
sea animals | whales, sharks and crabs
birds that can fly | eagles, owls and swans
shapes | circles, squares and triangles
rooms in a house | the kitchen, the bedroom and the bathroom
jobs | teacher, nurse and pilot
metals | iron, gold and copper
ways to travel | by train, by bus and by plane
countries in Europe | France, Spain and Italy
breakfast foods | eggs, toast and cereal
insects | ants, bees and butterflies
parts of the body | the head, the arms and the legs
desserts | cake, ice cream and pie
feelings | joy, anger and fear
board games | chess, checkers and backgammon
winter clothes | coats, scarves and gloves
wild animals | lions, bears and wolves
spices | pepper, cinnamon and ginger
cities in Asia | Tokyo, Delhi and Bangkok
oceans | the Pacific, the Atlantic and the Indian Ocean
ways to relax | reading, walking and sleeping
kinds of bread | rye, wheat and corn bread
things made of glass | windows, bottles and mirrors
round objects | balls, coins and oranges
cold foods | ice cream, salad and yogurt
dances | the waltz, the tango and the polka
nuts | almonds, walnuts and pecans
sources of light | the sun, a candle and a bulb
languages | English, Spanish and Chinese
kinds of pasta | spaghetti, penne and lasagna
healthy habits | eating well, sleeping enough and exercising
gifts for a child | a ball, a book and a puzzle
African countries | Egypt, Kenya and Ghana
big rivers | the Nile, the Amazon and the Danube
hobbies | reading, cooking and hiking
yellow things | lemons, bananas and the sun
items on a desk at school | a pen, a notebook and a ruler
small animals | mice, frogs and snails
soft materials | cotton, silk and wool
citrus fruits | lemons, oranges and limes
South American countries | Brazil, Peru and Chile
summer activities | swimming, camping and hiking
pieces of furniture | a sofa, a bed and a shelf
dairy foods | milk, cheese and butter
signs of spring | flowers, birdsong and warm days
holiday foods | turkey, pie and cookies
baby animals | puppies, kittens and lambs
kinds of books | novels, poems and biographies
string instruments | the guitar, the violin and the harp
types of cloud | cirrus, cumulus and stratus
reptiles | snakes, lizards and turtles
things that can float | wood, cork and ice
parts of a plant | the roots, the stem and the leaves
bones of the body | the skull, the spine and the ribs
polite words | please, thanks and sorry
units of time | seconds, minutes and hours
"""

SENTENCES = """
She walks to school. | She walked to school.
We play in the park. | We played in the park.
He eats an apple. | He ate an apple.
They sing a song. | They sang a song.
The dog runs fast. | The dog ran fast.
I write an email. | I wrote an email.
The baby sleeps well. | The baby slept well.
My father cooks dinner. | My father cooked dinner.
The bird flies away. | The bird flew away.
You drink some tea. | You drank some tea.
The train leaves at noon. | The train left at noon.
Anna reads a novel. | Anna read a novel.
The children swim in the lake. | The children swam in the lake.
He drives to work. | He drove to work.
She speaks French. | She spoke French.
The sun shines all day. | The sun shone all day.
We build a sandcastle. | We built a sandcastle.
They win the game. | They won the game.
I find a coin. | I found a coin.
The teacher asks a question. | The teacher asked a question.
My cat climbs the tree. | My cat climbed the tree.
The students study hard. | The students studied hard.
Paul throws the ball. | Paul threw the ball.
Grandma tells a story. | Grandma told a story.
He wears a warm coat. | He wore a warm coat.
The wind blows from the west. | The wind blew from the west.
She brings her sister. | She brought her sister.
I forget his name. | I forgot his name.
The cows eat grass. | The cows ate grass.
We meet at the cafe. | We met at the cafe.
The phone rings twice. | The phone rang twice.
Emma buys fresh bread. | Emma bought fresh bread.
They travel by bus. | They traveled by bus.
He breaks the cup. | He broke the cup.
It rains every morning. | It rained every morning.
The team practices daily. | The team practiced daily.
You help your brother. | You helped your brother.
My aunt bakes a cake. | My aunt baked a cake.
She catches the bus. | She caught the bus.
The leaves fall in autumn. | The leaves fell in autumn.
I think about lunch. | I thought about lunch.
The nurse smiles at me. | The nurse smiled at me.
Tim grows tomatoes. | Tim grew tomatoes.
They choose a red car. | They chose a red car.
We listen to music. | We listened to music.
The frog jumps high. | The frog jumped high.
He teaches math. | He taught math.
The bell begins to sound. | The bell began to sound.
"""

FACTS = """
What is the capital of France? | The capital of France is Paris.
How many days are there in a week? | There are seven days in a week.
Which animal is known as the king of the jungle? | The lion is known as the king of the jungle.
At what temperature does water boil? | Water boils at 100 degrees Celsius.
Who wrote the play Romeo and Juliet? | William Shakespeare wrote Romeo and Juliet.
What do bees make? | Bees make honey.
On which continent is Egypt? | Egypt is on the continent of Africa.
How many wheels does a car have? | A car has four wheels.
What color do you get when you mix blue and yellow? | Blue and yellow mixed together make green.
Which planet is closest to the sun? | Mercury is the planet closest to the sun.
What do plants need in order to grow? | Plants need water, light and air to grow.
Who was the first person to walk on the moon? | Neil Armstrong was the first person to walk on the moon.
What language do people speak in Brazil? | People in Brazil speak Portuguese.
How long is one hour in minutes? | One hour is sixty minutes long.
Where does the sun rise? | The sun rises in the east.
What is a baby dog called? | A baby dog is called a puppy.
Which is the largest ocean on Earth? | The Pacific is the largest ocean on Earth.
Why do people wear a coat in winter? | People wear a coat in winter to stay warm.
What gas do humans breathe in to live? | Humans breathe in oxygen to live.
Name the season that comes after spring. | Summer comes after spring.
How many letters are in the English alphabet? | The English alphabet has twenty-six letters.
Which bird cannot fly but swims very well? | The penguin cannot fly but swims very well.
What is frozen water called? | Frozen water is called ice.
Is the earth flat or round? | The earth is round.
What money is used in Japan? | Japan uses the yen.
Which organ pumps blood through the body? | The heart pumps blood through the body.
How many months have exactly 28 days in most years? | Only February has exactly 28 days in most years.
What is the tallest animal in the world? | The giraffe is the tallest animal in the world.
Where do fish live? | Fish live in water.
In which country would you find the Great Wall? | The Great Wall is in China.
Who paints pictures for a living? | An artist paints pictures for a living.
What do you call a person who writes books? | A person who writes books is called an author.
Which month comes first in the year? | January is the first month of the year.
How many sides does a hexagon have? | A hexagon has six sides.
What is the main food of pandas? | Pandas mainly eat bamboo.
Can a spider be called an insect? | No, a spider is an arachnid and not an insect.
Why is the sky dark at night? | The sky is dark at night because the sun is on the other side of the earth.
What sound does a cow make? | A cow says moo.
Which metal is used in most electric wires? | Copper is used in most electric wires.
How many players are on a soccer team? | A soccer team has eleven players on the field.
What is the freezing point of water? | Water freezes at zero degrees Celsius.
From which animal do we get wool? | We get wool from sheep.
Which sense do we use with our ears? | We use our ears for hearing.
Tell me the largest planet in our solar system. | Jupiter is the largest planet in our solar system.
What do caterpillars turn into? | Caterpillars turn into butterflies.
How many minutes make half an hour? | Thirty minutes make half an hour.
Where is the Eiffel Tower? | The Eiffel Tower is in Paris.
What is the first letter of the word orange? | The first letter of the word orange is o.
Do whales breathe air? | Yes, whales come to the surface to breathe air.
What meal do most people eat at noon? | Most people eat lunch at noon.
Which direction does a compass needle point to? | A compass needle points to the north.
What is ten times ten? | Ten times ten is one hundred.
How many legs does an octopus have? | An octopus has eight arms.
Where do kangaroos come from? | Kangaroos come from Australia.
What do we call a doctor for animals? | A doctor for animals is called a vet.
Which fruit is used to make wine? | Grapes are used to make wine.
Why should you brush your teeth? | You should brush your teeth to keep them healthy.
What is the color of a ripe banana? | A ripe banana is yellow.
Name the star at the center of the solar system. | The sun is at the center of the solar system.
How many years are in a century? | A century has one hundred years.
What does a baker make? | A baker makes bread and cakes.
Which country is shaped like a boot? | Italy is shaped like a boot.
Is a tomato a fruit? | Yes, a tomato is a fruit because it has seeds.
What do you use to cut paper? | You use scissors to cut paper.
How do birds keep their eggs warm? | Birds sit on their eggs to keep them warm.
Which is heavier, a kilogram or a gram? | A kilogram is heavier than a gram.
What day comes after Tuesday? | Wednesday comes after Tuesday.
Who delivers letters to your home? | A mail carrier delivers letters to your home.
What is the plural of the word mouse? | The plural of mouse is mice.
Which ocean lies between Europe and America? | The Atlantic Ocean lies between Europe and America.
At night, what can you see shining in the sky? | At night you can see the moon and the stars.
How many hours does one day have? | One day has twenty-four hours.
What is made from cocoa beans? | Chocolate is made from cocoa beans.
Which big gray animal has a trunk? | The elephant is a big gray animal with a trunk.
What do we breathe with? | We breathe with our lungs.
When do leaves fall from many trees? | Leaves fall from many trees in autumn.
Spell the number 12 as a word. | The number 12 is spelled twelve.
Which two colors make pink? | Red and white make pink.
What is the biggest desert with sand? | The Sahara is the biggest desert with sand.
How many cents are in a dollar? | There are one hundred cents in a dollar.
What covers most of the surface of the earth? | Water covers most of the surface of the earth.
Which vehicle flies in the air? | A plane flies in the air.
Who looks after the plants in a park? | A gardener looks after the plants in a park.
What do you wear on your feet? | You wear socks and shoes on your feet.
Which city is called the Big Apple? | New York City is called the Big Apple.
Why do cats have whiskers? | Cats use their whiskers to feel things around them.
What is half of fifty? | Half of fifty is twenty-five.
How many strings does a standard guitar have? | A standard guitar has six strings.
Which food comes from hens? | Eggs come from hens.
What is the name of our galaxy? | Our galaxy is called the Milky Way.
Do penguins live at the North Pole? | No, penguins live in the southern part of the world.
Which part of a plant is under the ground? | The roots of a plant are under the ground.
What number comes before one thousand? | Nine hundred ninety-nine comes before one thousand.
Where can you borrow books for free? | You can borrow books for free at a library.
Which instrument has eighty-eight keys? | The piano has eighty-eight keys.
How does a snake move? | A snake moves by sliding on its belly.
"""
